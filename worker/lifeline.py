"""Sees at once that a worker of this machine is gone: each holds a file lock, which the kernel drops with the process.

Only a lock that could be taken says that its holder is dead. A worker that merely stands still keeps its lock, and one
whose file is not here (on another machine, in another container) is left to its lease.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import structlog

log = structlog.get_logger()


class Lifeline:
    """One worker's lock, and a look at the others'. Names are never used twice, so a dead one stays dead."""

    def __init__(self, name: str, redis_url: str) -> None:
        """Take no lock yet.

        Args:
            name: of this worker.
            redis_url: whose workers belong together; only its host, port and database count.
        """
        place = urlsplit(redis_url)
        service = re.sub(r"[^\w.-]+", "-", f"{place.hostname}-{place.port}{place.path}")
        self._folder = Path(tempfile.gettempdir()) / f"sightline-{os.getuid()}" / service
        self._name = name
        self._held: int | None = None

    def hold(self) -> None:
        """Take this worker's lock; without a place for it, others wait for the lease's end instead."""
        hidden = self._folder / f".{self._name}"  # unseen until it is locked
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._folder.stat().st_uid != os.getuid():
                return
            self._held = os.open(hidden, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._held, fcntl.LOCK_EX)
            hidden.rename(self._folder / self._name)
        except OSError:
            log.warning("lifeline.missing", folder=str(self._folder))

    def dead(self) -> list[str]:
        """Name the workers of this machine that died and were not buried yet."""
        with suppress(OSError):
            return [path.name for path in self._folder.glob("[!.]*") if path.name != self._name and _is_free(path)]
        return []

    def bury(self, names: Iterable[str]) -> None:
        """Forget dead workers, once their jobs are queued again."""
        for name in names:
            (self._folder / name).unlink(missing_ok=True)

    def release(self) -> None:
        """Give this worker's lock up."""
        if self._held is not None:
            self.bury([self._name])
            os.close(self._held)
            self._held = None


def _is_free(path: Path) -> bool:
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
