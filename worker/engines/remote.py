"""An engine in processes of its own: its Python and the worker's never wait for each other's lock."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from shared.aio import cancel_all
from shared.jobs import EngineInfo
from shared.sampling_params import Sampling
from shared.settings import Settings
from worker.engines import wire
from worker.engines.base import Conversation, EngineDead, EngineUnavailable, Front, Generation, Health, PixelLimits, Tools

#: Let an engine's process keep the memory of one picture for the next: glibc would give it back, and its pages be made anew.
#: With one arena two threads normalise 1 MP in 7 ms, not 14 (2 cores).
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
#: How long an engine may take to leave by itself.
CLOSE_S = 10.0
_DEAD = Health(alive=False, running=0, waiting=0)


@dataclass
class _Request:
    end: asyncio.Future[Generation]
    on_text: Callable[[str], None] | None


class RemoteEngine:
    """Stands for an engine that :mod:`worker.engines.host` runs. See :class:`worker.engines.base.Engine`."""

    def __init__(self, settings: Settings, name: str, place: str, fronts: int = 1) -> None:
        """Remember what to run; the processes begin with :meth:`start`.

        Args:
            settings: for the engine.
            name: what stands in the worker's heartbeat until the engine has said its own.
            place: its class, as ``module:Class``.
            fronts: how many processes share it; the first one loads the model.
        """
        self._settings, self._place, self._count = settings, place, fronts
        self._info = EngineInfo(name=name, version="", model=settings.served_model_name)
        self._limits: PixelLimits | None = None
        self._fronts: list[_Process] = []
        #: What its processes share while they live; vLLM's own figures for Prometheus among it.
        self.folder = ""

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
        """Start the processes and wait until each is ready."""
        self.folder = tempfile.mkdtemp(prefix="sightline-engine-")
        fronts = [Front(index, self._count, self.folder) for index in range(self._count)]
        self._fronts = [_Process(wire.Load(self._place, self._settings, front), self._die) for front in fronts]
        starts = [asyncio.create_task(front.start()) for front in self._fronts]
        try:
            ready, *_ = await asyncio.gather(*starts)
        finally:
            await cancel_all(set(starts))
        self._info, self._limits = ready.info, ready.limits

    def _die(self) -> None:
        """End every request: whichever process is lost, the others are of no use."""
        for front in self._fronts:
            front.give_up()

    async def generate(
        self,
        conversation: Conversation,
        sampling: Sampling,
        *,
        request_id: str,
        urgency: int = 0,
        on_text: Callable[[str], None] | None = None,
        tools: Tools = (),
    ) -> Generation:
        """See :class:`worker.engines.base.Engine`."""
        if not self._fronts:
            raise EngineDead
        front = min(self._fronts, key=lambda front: len(front.requests))
        return await front.generate(wire.Ask(conversation, sampling, request_id, urgency, on_text is not None, tools), on_text)

    async def abort(self, request_id: str) -> None:
        """See :class:`worker.engines.base.Engine`."""
        for front in self._fronts:
            if request_id in front.requests:
                front.send(wire.Abort(request_id))

    async def health(self) -> Health:
        """See :class:`worker.engines.base.Engine`; a process that says nothing counts as stuck."""
        if not self._fronts:
            return _DEAD
        healths = [front.health for front in self._fronts]
        # A front whose requests all wait sees no step, though the engine makes some.
        stalled_s = min((front.health.stalled_s for front in self._fronts if front.requests), default=0.0)
        return replace(
            max(healths, key=lambda health: health.at_s),
            alive=all(health.alive for health in healths),
            running_peak=max(health.running_peak for health in healths),
            stalled_s=max(stalled_s, *(front.silent_s for front in self._fronts)),
        )

    async def close(self) -> None:
        """See :class:`worker.engines.base.Engine`."""
        self._die()
        fronts, self._fronts = self._fronts, []
        await asyncio.gather(*(front.close() for front in fronts))
        shutil.rmtree(self.folder, ignore_errors=True)


class _Process:
    """One of the engine's processes, and the requests that it has."""

    def __init__(self, load: wire.Load, on_death: Callable[[], None]) -> None:
        """Remember what to run, and whom to tell when it is lost."""
        self._load, self._on_death = load, on_death
        self.requests: dict[str, _Request] = {}
        self.health, self._health_at_s = _DEAD, 0.0
        self.popen: subprocess.Popen[bytes] | None = None
        self._channel: wire.Channel | None = None
        self._listener: asyncio.Task[None] | None = None

    async def start(self) -> wire.Ready:
        """Start it and wait until its engine is loaded."""
        ours, theirs = socket.socketpair()
        with theirs:
            # In a session of its own: no signal meant for the worker reaches it, and all of it can be killed at once.
            self.popen = subprocess.Popen(  # noqa: ASYNC220, S603  # milliseconds; our own module
                [sys.executable, "-m", "worker.engines.host", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=MALLOC | os.environ | self._metrics,
                start_new_session=True,
            )
        self._channel = await wire.Channel.open(ours)
        self.send(self._load)
        try:
            answer: wire.Ready | wire.Done = await self._channel.receive()
        except EOFError as error:
            code = await asyncio.to_thread(self.popen.wait, CLOSE_S)
            msg = f"the engine's process ended while it loaded (exit code {code}); see the lines above"
            raise EngineUnavailable(msg) from error
        if isinstance(answer, wire.Done):
            raise answer.outcome if isinstance(answer.outcome, Exception) else EngineUnavailable
        self.health, self._health_at_s = Health(alive=True, running=0, waiting=0), time.monotonic()
        self._listener = asyncio.create_task(self._listen(self._channel))
        return answer

    @property
    def _metrics(self) -> dict[str, str]:
        """Have the engine's library write its figures into files, which the worker adds up when Prometheus asks."""
        load = self._load
        return {"PROMETHEUS_MULTIPROC_DIR": load.front.folder} if load.settings.metrics_port else {}

    async def _listen(self, channel: wire.Channel) -> None:
        while True:
            try:
                answer: wire.Answer = await channel.receive()
            except EOFError:
                self._on_death()
                return
            if isinstance(answer, Health):
                self._hear(answer)
            elif isinstance(answer, wire.Text):
                request = self.requests.get(answer.request_id)
                if request and request.on_text:
                    request.on_text(answer.piece)
            elif isinstance(answer, wire.Done):
                self._settle(answer)

    def _hear(self, health: Health) -> None:
        self._health_at_s = time.monotonic()
        if not self.health.alive:  # given up with another front
            return
        self.health = health
        if not health.alive:
            self._on_death()

    def _settle(self, done: wire.Done) -> None:
        if isinstance(done.outcome, EngineDead):  # before its request hears of it: whoever asks next is to find it dead
            self._on_death()
        request = self.requests.get(done.request_id)
        if request is None or request.end.done():
            return
        if isinstance(done.outcome, Exception):
            request.end.set_exception(done.outcome)
        else:
            request.end.set_result(done.outcome)

    def give_up(self) -> None:
        """Count as dead, and end every request."""
        self.health = _DEAD
        for request in self.requests.values():
            if not request.end.done():
                request.end.set_exception(EngineDead())

    def send(self, order: wire.Order) -> None:
        """Send an order, to nobody where the process is gone."""
        if self._channel:
            self._channel.send(order)

    async def generate(self, ask: wire.Ask, on_text: Callable[[str], None] | None) -> Generation:
        """Ask, and wait for the end; see :class:`worker.engines.base.Engine`."""
        if not self.health.alive or self._channel is None:
            raise EngineDead
        request = self.requests[ask.request_id] = _Request(asyncio.get_running_loop().create_future(), on_text)
        try:
            self.send(ask)
            return await request.end
        finally:
            del self.requests[ask.request_id]
            if not request.end.done():
                request.end.cancel()
            if request.end.cancelled():
                self.send(wire.Drop(ask.request_id))
            else:
                request.end.exception()  # seen, also where the task was cancelled meanwhile

    @property
    def silent_s(self) -> float:
        """Seconds without a word though it has requests."""
        return time.monotonic() - self._health_at_s if self.requests else 0.0

    async def close(self) -> None:
        """Let it leave, or kill it."""
        if self._listener:
            await cancel_all({self._listener})
        if self._channel:
            self._channel.close()  # which tells it to leave
        if self.popen is None:
            return
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self.popen.wait, CLOSE_S)
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)  # with it goes what it has started
        await asyncio.to_thread(self.popen.wait)
