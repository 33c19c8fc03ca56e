"""Ports of this machine: one that is free, why another cannot be had, and whether a process listens on it."""

from __future__ import annotations

import errno
import random
import socket
from contextlib import suppress
from pathlib import Path

#: Linux takes the ports of connections from 32,768 upwards.
PORTS = (20_000, 32_000)
_LISTEN = "0A"  #: a socket's state, in Linux's tables of them


def free_port() -> int:
    """Find a port that nobody listens on now, below those that the kernel gives to connections before it is used."""
    while True:
        port = random.SystemRandom().randrange(*PORTS)
        if not why_not("127.0.0.1", port):
            return port


def why_not(host: str, port: int) -> str | None:
    """Say why a server cannot listen there; None: it can.

    Args:
        host: an address of this machine, or its name.
        port: as a server would bind it.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except socket.gaierror:
        return f"{host} is no address of this machine (SIGHTLINE_HOST)"
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"port {port} is taken by another program; --port, or SIGHTLINE_PORT, names another one"
        if error.errno == errno.EADDRNOTAVAIL:
            return f"{host} is no address of this machine (SIGHTLINE_HOST)"
        return f"port {port} cannot be used: {error.strerror}; --port, or SIGHTLINE_PORT, names another one"
    return None


def listens(pid: int, port: int) -> bool:
    """Say whether it is this process that listens on a port, and not another one."""
    held = set()
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                held.add(str(link.readlink()))
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                (
                    _,
                    local,
                    _,
                    state,
                    *_,
                ) = fields = line.split()
                if state == _LISTEN and int(local.rpartition(":")[2], 16) == port and f"socket:[{fields[9]}]" in held:
                    return True
    return False
