"""Parts and commands that tests start, forked from a process that has imported all of Sightline: most of what a start costs.

A fork runs what ``python -m`` runs, with its own arguments, variables, folder, files and session, and is a child of the test's
process, so all of ``Popen`` holds. What is given more than settings, such as a terminal or a variable that Python or a
library reads when it is loaded, is started as users start it.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import importlib
import inspect
import io
import os
import pickle
import runpy
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx

from api.page import routes
from shared.settings import ROOT
from sightline.stack import die_with_parent

#: What may be run, and what each of them imports later.
ENTRIES = {
    "api.main": [],
    "api.batches.main": [],
    "worker.main": ["worker.process", "worker.runtime", "worker.webhooks.main"],
    "sightline.cli": ["sightline.describe.run", "sightline.forward", "sightline.receiver", "sightline.status"],
}
#: Variables that are read after the start, those that vLLM leaves in the test's process, and how memory goes back.
_HARMLESS = ("SIGHTLINE_", "PYTEST_", "DOUBLE_", "COLUMNS", "PYTHONUNBUFFERED")
_HARMLESS += ("LD_LIBRARY_PATH", "TORCHINDUCTOR_CACHE_DIR", "PYTHONMALLOC")
_PR_SET_CHILD_SUBREAPER = 36
_Popen, _libc = subprocess.Popen, ctypes.CDLL(None)


class ForkServer:
    """The process that the others are forked from, while the block runs."""

    def __enter__(self) -> Self:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock, self._variables = threading.Lock(), dict(os.environ)
        command, no = [sys.executable, "-m", "tests.forked", str(theirs.fileno())], subprocess.DEVNULL
        with theirs:
            self._process = _Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=no, stdout=no, start_new_session=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._orders.close()
        self._process.wait()

    def can_fork(self, command: Any, env: Mapping[str, str], first: Callable[[], None] | None) -> bool:
        """Whether a fork would be as good as a start."""
        is_ours = isinstance(command, list) and command[:2] == [sys.executable, "-m"] and command[2] in ENTRIES
        given = set(env.items()) ^ set(self._variables.items())
        return is_ours and first in {None, die_with_parent} and all(name.startswith(_HARMLESS) for name, _ in given)

    def fork(self, files: list[int], **order: Any) -> int:
        """Have one run, as a child of this process; gives its pid."""
        with self._lock:
            # A process that is there for this alone forks it, and leaves; then this one is its parent.
            _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
            socket.send_fds(self._orders, [pickle.dumps(order)], files)
            pid = int(self._orders.recv(16))
            self._orders.recv(1)
            _libc.prctl(_PR_SET_CHILD_SUBREAPER, 0)
        return pid


@contextmanager
def forking(server: ForkServer) -> Iterator[None]:
    """Fork what can be forked, while the block runs."""

    class Forked(_Popen[Any]):
        def _execute_child(self, *args: Any) -> None:
            asked = inspect.signature(super()._execute_child).bind(*args).arguments
            env, first = dict(os.environ if asked["env"] is None else asked["env"]), asked["preexec_fn"]
            ends = (asked[name] for name in ("p2cread", "c2pwrite", "errwrite"))
            files = [number if end == -1 else end for number, end in enumerate(ends)]
            if not server.can_fork(asked["args"], env, first) or any(map(os.isatty, files)):
                super()._execute_child(*args)
                return
            place = {"cwd": os.fspath(asked["cwd"] or Path.cwd()), "env": env, "leads": asked["start_new_session"]}
            self.pid = server.fork([*files, *asked["pass_fds"]], command=asked["args"][2:], first=first, **place)
            self._child_created = True
            self._close_pipe_fds(*(asked[f"{pipe}{end}"] for pipe in ("p2c", "c2p", "err") for end in ("read", "write")))

    subprocess.Popen = Forked  # type: ignore[misc]
    try:
        yield
    finally:
        subprocess.Popen = _Popen  # type: ignore[misc]


def _wait_for_order(orders: socket.socket) -> str:
    """Fork whenever that is asked for; comes back in the fork, with the module that it shall run."""
    while True:
        order, files, *_ = socket.recv_fds(orders, 2**20, 8)
        if not order:
            sys.exit()
        if between := os.fork():
            os.waitpid(between, 0)
            orders.send(b".")
            list(map(os.close, files))
            continue
        between = os.getpid()
        if pid := os.fork():
            orders.send(str(pid).encode())
            os._exit(0)
        while os.getppid() == between:
            time.sleep(0.001)
        orders.close()
        return _settle(files, **pickle.loads(order))


def _settle(
    files: list[int], *, command: list[str], env: dict[str, str], cwd: str, leads: bool, first: Callable[[], None] | None
) -> str:
    """Become what was asked for."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, file in enumerate(files[:3]):  # a file that was passed beside these, a lock, stays open
        os.dup2(file, number)
        os.close(file)
    # As Python opens them: those that it had are of another kind.
    output, is_bare = io.FileIO(1, "w", closefd=False), "PYTHONUNBUFFERED" in env
    sys.stdin, sys.stderr = open(0, closefd=False), open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stdout = io.TextIOWrapper(output if is_bare else io.BufferedWriter(output), write_through=is_bare)  # type: ignore[type-var]
    if leads:
        os.setsid()
    if first:
        first()
    sys.path[0], sys.argv[1:] = cwd, command[1:]
    return command[0]


def _run(module: str) -> None:
    """Run what was asked for, and end as Python does, but for taking apart a million objects: half of a command's CPU time."""
    code: Any = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        code = end.code or 0
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):  # of which Python itself tells below
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    for name in [name for entry, later in ENTRIES.items() for name in (entry, *later)]:
        importlib.import_module(name)
    for entry in ENTRIES:
        del sys.modules[entry]  # which is run anew, as __main__
    # What each client and each gateway reads anew: the system's certificates and the page's files.
    httpx._transports.default.create_ssl_context = functools.cache(httpx.create_ssl_context)
    for trust_env in (True, False):
        httpx.Client(trust_env=trust_env).close()
    routes._assets()
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a fork has but one thread"
    gc.collect()
    gc.freeze()
    _run(_wait_for_order(socket.socket(fileno=int(sys.argv[1]))))
