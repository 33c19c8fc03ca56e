"""A few children that decode, each at the other end of a socket of its own: one that dies, stops or hangs holds up nobody else.

They come from worker/media/nursery.py, and stay in the sandbox of worker/media/sandbox.py.
"""

from __future__ import annotations

import asyncio
import atexit
import io
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import structlog

from worker.engines.wire import Channel
from worker.job_metrics import DECODER_DEATHS
from worker.media.nursery import STATUS

log = structlog.get_logger()

T = TypeVar("T")

#: Whatever a codec leaks ends with its process.
FILES_PER_CHILD = 1000
#: The nursery itself takes a second to start, and longer where all cores are busy; after so long it is stuck.
START_S = 15.0
#: It tells within milliseconds how a child ended.
STATUS_S = 2.0
SOCKET_BYTES = (
    2**20
)  #: larger than the default, where the system allows it: else one picture takes many turns of the event loop
#: Ends that a file can bring about. The others come from outside: from the kernel, where memory is short, or an operator.
_OF_THE_FILE = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS, signal.SIGTRAP}


class Crashed(Exception):
    """The child died of what it was given."""


class Killed(Exception):
    """The child was killed from outside; its file may be a good one."""


class Decoders:
    """Has at most so many children, each with one file at a time. Files wait in order."""

    def __init__(self, most: int, *, nice: int = 0) -> None:
        """Start no child yet; they start when there is something to do.

        Args:
            most: children at a time.
            nice: how far they stand back for others that want the same cores.
        """
        self._turns, self._nice = asyncio.Semaphore(most), nice
        self._idle: list[_Child] = []
        self._all = set[_Child]()

    async def run(self, wall_s: float, memory_bytes: int, cpu_s: float, function: Callable[..., T], *args: object) -> T:
        """Call a function in a child. When the caller is cancelled, the child is killed.

        Args:
            wall_s: how long it may take.
            memory_bytes: see :func:`worker.media.sandbox.run`.
            cpu_s: see there.
            function: a decoder.
            args: what it is given; large ``bytes`` are best wrapped in a ``PickleBuffer``.

        Raises:
            TimeoutError: it took too long.
            Crashed: the child died of it.
            Killed: the child was killed from outside.
        """
        async with self._turns:
            child = await self._take()
            try:
                went_well, answer = await child.ask(wall_s, (memory_bytes, cpu_s, function, args))
            finally:
                if child.can_go_on:
                    self._idle.append(child)
                else:
                    self._drop(child)
        if went_well:
            return answer  # type: ignore[no-any-return]
        raise answer

    async def _take(self) -> _Child:
        while self._idle:
            if (child := self._idle.pop()).can_go_on:
                return child
            self._drop(child)  # it died meanwhile
        child = await _Child.start(self._nice)
        self._all.add(child)
        return child

    def _drop(self, child: _Child) -> None:
        self._all.discard(child)
        child.kill()

    def close(self) -> None:
        """Kill the children."""
        for child in list(self._all):
            self._drop(child)


class _Answers(Channel):
    """Reads the answers of a child that handled strangers' bytes: pixels, errors and plain values, and nothing else."""

    def unpack(self, body: bytearray, buffers: Sequence[bytearray]) -> Any:
        return _Unpickler(io.BytesIO(body), buffers=buffers).load()


_PLAIN = {("worker.media.pictures", "Pixels"), ("worker.media.pictures", "Source"), ("worker.media.frame_sampling", "Frames")}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name) if module in {"builtins", "shared.errors"} else None
        is_error = isinstance(found, type) and issubclass(found, Exception)
        if is_error or (module, name) in _PLAIN:
            return found or super().find_class(module, name)
        msg = f"a decoder does not answer with {module}.{name}"
        raise pickle.UnpicklingError(msg)


class _Child:
    """One child."""

    def __init__(self, channel: _Answers, end: socket.socket) -> None:
        """Take over its sockets: for orders and answers, and for how it ended."""
        self._channel, self._end = channel, end
        self._pid = 0
        self._asked = 0
        self._is_busy = True
        self._is_fresh = True  #: it has not grown too large for another file

    @classmethod
    async def start(cls, nice: int) -> _Child:
        """Start one; where the nursery is stuck, another is put in its place by the next.

        Raises:
            Killed: it did not come up.
        """
        (ours, theirs), (end, their_end) = socket.socketpair(), socket.socketpair()
        for connection in (ours, theirs):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        child = cls(await _Answers.open(ours), end)
        end.settimeout(0)
        try:
            with theirs, their_end:
                _nursery.bear(theirs, their_end, nice)
            async with asyncio.timeout(START_S):
                _, child._pid = await child._channel.receive()
        except (TimeoutError, OSError, EOFError) as error:
            child.kill()
            log.warning("decoder.not_started", error=type(error).__name__)
            if isinstance(error, TimeoutError):
                _nursery.close()
            raise Killed from error
        except BaseException:
            child.kill()
            raise
        child._is_busy = False
        return child

    @property
    def can_go_on(self) -> bool:
        """Whether it can be given another file."""
        return self._is_fresh and not self._is_busy and not self._channel.closed and self._asked < FILES_PER_CHILD

    async def ask(self, wall_s: float, order: Any) -> tuple[bool, Any]:
        """Send an order and wait for its answer; see :meth:`Decoders.run` for what it raises."""
        self._asked += 1
        self._is_busy = True
        self._channel.send(order)
        try:
            async with asyncio.timeout(wall_s):
                went_well, answer, self._is_fresh = await self._channel.receive()
        except TimeoutError:
            if self._is_stopped():
                raise Killed from None
            raise
        except EOFError:
            raise await self._how_it_ended() from None
        self._is_busy = False
        return went_well, answer

    def _is_stopped(self) -> bool:
        with suppress(OSError):
            return Path(f"/proc/{self._pid}/stat").read_text().rpartition(") ")[2][:1] in {"T", "t"}
        return False

    async def _how_it_ended(self) -> Exception:
        code = None
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(STATUS_S):
                answer = await asyncio.get_running_loop().sock_recv(self._end, STATUS.size)
            if answer:  # else the nursery is gone as well
                (code,) = STATUS.unpack(answer)
                self._pid = 0
        log.warning("decoder.died", exit_code=code)
        if code == -signal.SIGXCPU:
            ended: Exception = TimeoutError()
        elif code is None or (code < 0 and -code not in _OF_THE_FILE):
            ended = Killed()
        else:
            ended = Crashed()
        DECODER_DEATHS.labels({TimeoutError: "timeout", Killed: "killed", Crashed: "crashed"}[type(ended)]).inc()
        return ended

    def kill(self) -> None:
        """End it."""
        if self._pid and not self._channel.closed:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        self._channel.abort()  # which ends one that has not come up yet
        self._end.close()


class _Nursery:
    """The process that all decoders of this one come from; whenever it is gone, the next decoder starts another."""

    def __init__(self) -> None:
        self._orders: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def bear(self, connection: socket.socket, end: socket.socket, nice: int) -> None:
        """Ask for a decoder.

        Args:
            connection: for orders and answers; the decoder says its pid first.
            end: the nursery says there how the decoder ended.
            nice: how far it stands back.

        Raises:
            OSError: none can be started.
        """
        order = [str(nice).encode()], [connection.fileno(), end.fileno()]
        try:
            socket.send_fds(self._orders or self._start(), *order)
        except OSError:  # it was killed, or is stuck
            self.close()
            socket.send_fds(self._start(), *order)

    def _start(self) -> socket.socket:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._orders.settimeout(0)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  # our own module
                [sys.executable, "-m", "worker.media.nursery", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        return self._orders

    def close(self) -> None:
        """Kill it. Its decoders run on until the worker closes their sockets."""
        if self._process and self._orders:
            self._orders.close()
            self._process.kill()
            self._process.wait()
        self._process = self._orders = None


_nursery = _Nursery()
atexit.register(_nursery.close)
