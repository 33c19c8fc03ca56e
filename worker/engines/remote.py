"""An engine in a process of its own: its Python and the worker's never wait for each other's lock."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from shared.aio import cancel_all
from shared.jobs import EngineInfo, Sampling
from shared.settings import Settings
from worker.engines import wire
from worker.engines.base import Conversation, EngineDead, EngineUnavailable, Generation, Health, PixelLimits

#: How long an engine may take to leave by itself.
CLOSE_S = 10.0


@dataclass
class _Request:
    end: asyncio.Future[Generation]
    on_text: Callable[[str], None] | None


class RemoteEngine:
    """Stands for an engine that :mod:`worker.engines.host` runs. See :class:`worker.engines.base.Engine`."""

    def __init__(self, settings: Settings, name: str, place: str) -> None:
        """Remember what to run; the process begins with :meth:`start`.

        Args:
            settings: for the engine.
            name: what stands in the worker's notice until the engine has said its own.
            place: its class, as ``module:Class``.
        """
        self._load = wire.Load(place, settings)
        self._info = EngineInfo(name=name, version="", model=settings.served_model_name)
        self._limits: PixelLimits | None = None
        self._requests: dict[str, _Request] = {}
        self._health, self._health_at_s = Health(alive=False, running=0, waiting=0), 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listener: asyncio.Task[None] | None = None

    @property
    def info(self) -> EngineInfo:
        """See :class:`worker.engines.base.Engine`."""
        return self._info

    @property
    def limits(self) -> PixelLimits:
        """See :class:`worker.engines.base.Engine`; known once it has started."""
        if self._limits is None:
            raise EngineDead
        return self._limits

    async def start(self) -> None:
        """Start the process and wait until its engine is loaded."""
        ours, theirs = socket.socketpair()
        with theirs:
            # In a session of its own: no signal meant for the worker reaches it, and all of it can be killed at once.
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603  # milliseconds; our own module
                [sys.executable, "-m", "worker.engines.host", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=wire.LIMIT_BYTES)
        wire.send(self._writer, self._load)
        try:
            answer = await wire.receive(reader)
        except EOFError as error:
            code = await asyncio.to_thread(self._process.wait, CLOSE_S)
            msg = f"the engine's process ended while it loaded (exit code {code}); see the lines above"
            raise EngineUnavailable(msg) from error
        if isinstance(answer, wire.Done):
            raise answer.outcome if isinstance(answer.outcome, Exception) else EngineUnavailable
        self._info, self._limits = answer.info, answer.limits
        self._health, self._health_at_s = Health(alive=True, running=0, waiting=0), time.monotonic()
        self._listener = asyncio.create_task(self._listen(reader))

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                answer: wire.Answer = await wire.receive(reader)
            except EOFError:
                self._die()
                return
            if isinstance(answer, Health):
                self._health, self._health_at_s = answer, time.monotonic()
            elif isinstance(answer, wire.Text):
                request = self._requests.get(answer.request_id)
                if request and request.on_text:
                    request.on_text(answer.piece)
            elif isinstance(answer, wire.Done):
                self._settle(answer)

    def _settle(self, done: wire.Done) -> None:
        if isinstance(done.outcome, EngineDead):  # before its request hears of it: whoever asks next is to find it dead
            self._die()
        request = self._requests.get(done.request_id)
        if request is None or request.end.done():
            return
        if isinstance(done.outcome, Exception):
            request.end.set_exception(done.outcome)
        else:
            request.end.set_result(done.outcome)

    def _die(self) -> None:
        self._health = Health(alive=False, running=0, waiting=0)
        for request in self._requests.values():
            if not request.end.done():
                request.end.set_exception(EngineDead())

    async def generate(
        self,
        conversation: Conversation,
        sampling: Sampling,
        *,
        request_id: str,
        urgency: int = 0,
        on_text: Callable[[str], None] | None = None,
    ) -> Generation:
        """See :class:`worker.engines.base.Engine`."""
        if not self._health.alive or self._writer is None:
            raise EngineDead
        request = self._requests[request_id] = _Request(asyncio.get_running_loop().create_future(), on_text)
        try:
            wire.send(self._writer, wire.Ask(conversation, sampling, request_id, urgency, on_text is not None))
            with suppress(ConnectionError):  # the listener finds it dead
                await self._writer.drain()
            return await request.end
        finally:
            del self._requests[request_id]
            if not request.end.done():
                request.end.cancel()
            if request.end.cancelled():
                wire.send(self._writer, wire.Drop(request_id))
            else:
                request.end.exception()  # seen, also where the task was cancelled meanwhile

    async def abort(self, request_id: str) -> None:
        """See :class:`worker.engines.base.Engine`."""
        if request_id in self._requests and self._writer:
            wire.send(self._writer, wire.Abort(request_id))

    async def health(self) -> Health:
        """See :class:`worker.engines.base.Engine`; a process that says nothing counts as stuck."""
        silent_s = time.monotonic() - self._health_at_s if self._requests else 0.0
        own = self._health
        return Health(own.alive, own.running, own.waiting, own.running_peak, max(own.stalled_s, silent_s))

    async def close(self) -> None:
        """See :class:`worker.engines.base.Engine`."""
        process, self._process = self._process, None
        if process is None:
            return
        self._die()
        if self._listener:
            await cancel_all({self._listener})
        if self._writer:
            self._writer.close()  # which tells it to leave
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(process.wait, CLOSE_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with it goes what it has started
        await asyncio.to_thread(process.wait)
