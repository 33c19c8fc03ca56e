"""``python -m worker.media.nursery FD``: forks decoders, and says how each ended; see worker/media/decoders.py.

A process of its own, since a fork of the worker would have its threads' locks and its memory. What decoders need is imported
here once, so that they start in milliseconds. Python's own fork server would have each of them import the worker's main module.
"""

from __future__ import annotations

import importlib
import os
import select
import signal
import socket
import struct
import sys
from contextlib import suppress

from worker.media import sandbox

STATUS = struct.Struct("!i")  #: an exit code, or a signal's number below zero


def main() -> None:
    """Serve until the worker is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the worker, which hangs up when it leaves
    orders = socket.socket(fileno=int(sys.argv[1]))
    for module in sandbox.MODULES:
        importlib.import_module(module)
    ends: dict[int, socket.socket] = {}
    woken, wake = socket.socketpair()
    wake.settimeout(0)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, *_ = select.select([orders, woken], [], [])
        if woken in ready:
            woken.recv(4096)
            _bury(ends)
        if orders in ready:
            nice, fds, *_ = socket.recv_fds(orders, 16, 2)
            if not nice:
                return
            connection, end = (socket.socket(fileno=fd) for fd in fds)
            pid = os.fork()
            if pid == 0:
                _be_a_decoder(connection, int(nice))
            connection.close()
            ends[pid] = end


def _bury(ends: dict[int, socket.socket]) -> None:
    """Tell of each decoder that has ended."""
    while ends:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with ends.pop(pid) as end, suppress(OSError):  # nobody may wait for it any more
            end.sendall(STATUS.pack(os.waitstatus_to_exitcode(status)))


def _be_a_decoder(connection: socket.socket, nice: int) -> None:
    """Serve a gate, and end."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        kept = connection.fileno()
        os.closerange(3, kept)
        os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
        sandbox.serve(connection, nice)
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
