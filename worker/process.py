"""A job worker's process: one service on its own event loop, and a Celery consumer that rings it.

The service outlives the consumer: when Celery fails, as it can when Redis restarts, another consumer is put in its place
while the model stays loaded.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Protocol

import structlog
import uvloop
from celery import Celery, signals
from celery.worker import state as consumer_state
from kombu import Connection
from redis.exceptions import NoPermissionError, RedisError

from shared.doorbells import Listening, make_celery, queue_of
from shared.logs import start_part
from shared.settings import Settings
from shared.store import presence
from shared.store.address import parse_address, sync_client
from shared.store.key_names import control_channel
from shared.store.trouble_log import log_trouble
from worker.gpus import Gpu, claim_gpus
from worker.tasks import Bell

log = structlog.get_logger()

CLOSE_S = 20.0  #: an engine that does not end in this time dies with the process
#: A consumer that fails at once must not spin.
CONSUMER_PAUSE_S = 1.0
LOOK_S = 3.0  #: for a look at Redis before a consumer begins


class PromptConnection(Connection):  # type: ignore[misc]  # kombu has no types
    """Looks for a Redis that is away all the time; kombu's own pauses grow from 2 to 30 seconds."""

    def ensure_connection(self, errback: Any = None, *args: Any, **options: Any) -> Any:  # noqa: ARG002  # Celery's only logs
        """Try again after a part of a second, at most two, and say why once instead of each time."""
        pauses = {"interval_start": 0.2, "interval_step": 0.2, "interval_max": 2.0}
        return super().ensure_connection(lambda error, _: log_trouble(error, chore="consume"), *args, **{**pauses, **options})


class Service(Protocol):
    """What a worker's process hosts."""

    ready: asyncio.Event

    async def serve(self) -> None:
        """Run until cancelled."""

    def ring(self) -> None:
        """Hear a doorbell."""

    async def drain(self) -> None:
        """Take nothing more and finish or hand back what is in flight."""


class Host:
    """Runs a service on an event loop in a thread of its own."""

    def __init__(self, make: Callable[[], Service]) -> None:
        """Start the loop; the service is made on it."""
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="service", daemon=True)
        self._thread.start()
        self.service = self._submit(_made(make)).result()
        self.ended: Future[None] = self._submit(self.service.serve())
        self._drained: Future[None] | None = None

    def _submit(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def wait_ready(self) -> None:
        """Wait until the service can work; raises what stopped it."""
        ready = self._submit(self.service.ready.wait())
        try:
            while not ready.done() and not self.ended.done():
                time.sleep(0.05)
        finally:
            ready.cancel()  # a service that ends, or is asked to, sets it no more, and close() would wait for it
        if self.ended.done():
            self.ended.result()

    def ring(self) -> None:
        """Tell the service that there is work; from any thread."""
        self._loop.call_soon_threadsafe(self.service.ring)

    def drain(self) -> Future[None]:
        """Begin to drain, once; safe in a signal handler."""
        if self._drained is None:
            self._drained = self._submit(self.service.drain())
        return self._drained

    @property
    def draining(self) -> bool:
        """Whether the worker is leaving."""
        return self._drained is not None

    def close(self) -> None:
        """Stop the service and wait until its engine is gone."""
        self.ended.cancel()
        self._submit(_settled()).result(timeout=CLOSE_S + 5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)


async def _made(make: Callable[[], Service]) -> Service:
    return make()


async def _settled() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.wait(others, timeout=CLOSE_S) if others else None


def consume(app: Celery, host: Host, bell: Bell, settings: Settings) -> None:
    """Consume doorbells until the worker drains; a consumer that dies is replaced."""
    signals.worker_shutting_down.connect(lambda **_: host.drain(), weak=False)
    signals.setup_logging.connect(lambda **_: None, weak=False)  # else Celery would silence our own lines
    # A service that gave up must not leave a consumer behind that swallows doorbells.
    host.ended.add_done_callback(lambda _: os.kill(os.getpid(), signal.SIGTERM))
    app.amqp.Connection = PromptConnection
    app.register_task(bell)
    while True:
        consumer_state.should_stop = consumer_state.should_terminate = None
        if host.draining or host.ended.done():  # asked after the flags are cleared: a signal must not fall in between
            return
        if app.conf.worker_enable_remote_control and not may_be_controlled(settings):
            app.conf.worker_enable_remote_control = False
        consumer = app.Worker(
            pool="solo",  # unused: bells go past it
            queues=[queue_of(settings.served_model_name)],
            loglevel="WARNING",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
            hostname=f"jobs-{os.getpid()}@%h",
        )
        consumer.start()
        if not host.draining:
            log.error("consumer.died", exit_code=consumer.exitcode)
            presence.end(settings, "consumer", died=True)
            time.sleep(CONSUMER_PAUSE_S)


def may_be_controlled(settings: Settings) -> bool:
    """Whether the user's rights let Celery hear its remote control; a consumer that may not would die each second of it."""
    channel = control_channel(parse_address(settings.redis_url).db, settings.redis_prefix)
    try:
        with sync_client(settings, timeout_s=LOOK_S) as client, client.pubsub() as pubsub:
            pubsub.psubscribe(channel)  # as kombu does: a right to sightline:* is none to a pattern in it
            pubsub.get_message(timeout=LOOK_S)
    except NoPermissionError:
        log.info("remote_control.off", reason="the Redis user may not subscribe to its channel", remedy=f"give it &{channel}")
        return False
    except (RedisError, OSError):  # the consumer waits for Redis, and says why
        return True
    return True


def _claim_gpus(settings: Settings) -> list[Gpu]:
    gpus = claim_gpus(settings)
    for gpu in gpus:
        log.info("gpu.claimed", index=gpu.index, uuid=gpu.uuid)
    return gpus


def _make_service(settings: Settings, on_hunger: Callable[[bool], None]) -> Callable[[], Service]:
    from worker.engines import create_engine
    from worker.engines.base import EngineUnavailable
    from worker.runtime import Runtime

    if gone := settings.missing_model:  # before an engine is imported, which takes a quarter of a minute
        raise EngineUnavailable(str(gone))
    gpus = _claim_gpus(settings)  # before anything imports torch, which then sees these alone

    return lambda: Runtime(settings, lambda: create_engine(settings), gpus=gpus, on_hunger=on_hunger, on_order=_stop_oneself)


def _stop_oneself() -> None:
    """Leave as at a SIGTERM from outside. It is for the main thread: another one that got it would not wake that."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def run() -> int:
    """Run a worker until SIGTERM or Ctrl-C; gives the exit code."""
    settings = start_part("jobs")
    app = make_celery(settings)
    host: Host | None = None

    def leave(*_: object) -> None:
        """Leave before Celery listens for signals, which is later than the first jobs are claimed."""
        if host is not None and host.service.ready.is_set():
            host.drain()
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    presence.begin(settings, "jobs")
    try:
        bell = Bell(lambda: host.ring() if host else None)

        def on_hunger(is_hungry: bool) -> None:  # noqa: FBT001  # it is what the caller knows
            if is_hungry is not Listening.is_hungry:
                Listening.is_hungry = is_hungry
                bell.listen()

        host = Host(_make_service(settings, on_hunger))
        host.wait_ready()
        gc.collect()
        gc.freeze()  # a model's libraries leave a million objects, and walking them took a fifth of the worker's time
        log.info("worker.ready")
        consume(app, host, bell, settings)
        if host.ended.done():
            host.ended.result()
        host.drain().result()
    except (KeyboardInterrupt, SystemExit):
        if host is not None and host.draining:
            host.drain().result()
    except Exception as error:  # noqa: BLE001  # the last seam: a worker that cannot start says why in one line
        log.error("worker.failed", error=_sentence(error))  # noqa: TRY400  # the traceback would bury it
        return 1
    finally:
        if host is not None:
            host.close()
    presence.end(settings, "jobs")
    return 0


def _sentence(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    ours = type(error).__module__.partition(".")[0] in {"shared", "worker"}  # those speak to people
    text = " ".join(str(error).split())
    return text if ours else f"{type(error).__name__}: {text}"
