"""The process of an engine, started by :mod:`worker.engines.remote` as ``python -m worker.engines.host SOCKET``.

It ends with its worker, however that ends, and takes with it what the engine has started.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import shutil
import signal
import socket
import sys
from contextlib import suppress

import structlog
import uvloop

from shared.aio import cancel_all
from shared.errors import EngineFailed, SightlineError
from shared.logs import set_up_logs
from worker.engines import wire
from worker.engines.base import Engine, EngineDead, EngineUnavailable
from worker.engines.remote import CLOSE_S

log = structlog.get_logger()

HEALTH_EVERY_S = 0.25


class Host:
    """Runs one engine for the worker at the other end of a socket."""

    def __init__(self, channel: wire.Channel) -> None:
        """Listen to a worker over a channel, and answer."""
        self._channel = channel
        self._engine: Engine | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Load the engine that is asked for, and serve until the worker is gone."""
        order: wire.Load = await self._channel.receive()
        chores = {asyncio.create_task(self._load(order))}
        try:
            while True:
                self._obey(await self._channel.receive())
        except EOFError:
            pass
        finally:
            await cancel_all({*chores, *self._tasks.values()})
            if self._engine is not None:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._engine.close(), CLOSE_S)
            shutil.rmtree(order.front.folder, ignore_errors=True)  # a worker that was killed could not

    async def _load(self, order: wire.Load) -> None:
        set_up_logs("engine", as_json=order.settings.log_json)
        module, _, name = order.place.partition(":")
        try:
            kind = getattr(importlib.import_module(module), name)
            self._engine = kind(order.settings) if order.front.count == 1 else kind(order.settings, order.front)
            await self._engine.start()
        except EngineUnavailable as error:
            self._channel.send(wire.Done("", EngineUnavailable(str(error))))
            return
        except Exception as error:
            log.exception("engine.load_failed")
            self._channel.send(wire.Done("", EngineUnavailable(f"{type(error).__name__}: {error}")))
            return
        gc.collect()
        gc.freeze()  # a model's libraries leave a million objects, and walking them took a fifth of the time
        self._channel.send(wire.Ready(self._engine.info, self._engine.limits))
        while True:
            await asyncio.sleep(HEALTH_EVERY_S)
            self._channel.send(await self._engine.health())

    def _obey(self, order: wire.Order) -> None:
        assert self._engine is not None  # noqa: S101  # nothing is asked before it is ready
        if isinstance(order, wire.Ask):
            task = self._tasks[order.request_id] = asyncio.create_task(self._answer(self._engine, order))
            task.add_done_callback(lambda _: self._tasks.pop(order.request_id, None))
        elif isinstance(order, wire.Abort):
            task = self._tasks["abort " + order.request_id] = asyncio.create_task(self._engine.abort(order.request_id))
            task.add_done_callback(lambda _: self._tasks.pop("abort " + order.request_id, None))
        elif isinstance(order, wire.Drop) and (dropped := self._tasks.get(order.request_id)):
            dropped.cancel()

    async def _answer(self, engine: Engine, ask: wire.Ask) -> None:
        def on_text(piece: str) -> None:
            self._channel.send(wire.Text(ask.request_id, piece))

        try:
            outcome = await engine.generate(
                ask.conversation,
                ask.sampling,
                request_id=ask.request_id,
                urgency=ask.urgency,
                on_text=on_text if ask.streams else None,
                tools=ask.tools,
            )
        except (SightlineError, EngineDead) as error:
            self._channel.send(wire.Done(ask.request_id, error))
        except Exception:
            log.exception("engine.crashed", request_id=ask.request_id)
            self._channel.send(wire.Done(ask.request_id, EngineFailed()))
        else:
            self._channel.send(wire.Done(ask.request_id, outcome))


async def _serve(connection: socket.socket) -> None:
    channel = await wire.Channel.open(connection)
    try:
        await Host(channel).serve()
    finally:
        # At once, whatever still loads; and the engine's own processes with it, which would keep the GPU's memory.
        os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Serve until the worker is gone."""
    uvloop.run(_serve(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    main()
