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

import structlog

from shared.store.address import parse_address

log = structlog.get_logger()


class Liveness:
    """One worker's lock, and a look at the others'. Names are never used twice, so a dead one stays dead."""

    def __init__(self, name: str, redis_url: str) -> None:
        """Take no lock yet.

        Args:
            name: of this worker.
            redis_url: whose workers belong together; only its host, port and database count.
        """
        place = parse_address(redis_url)
        service = re.sub(r"[^\w.-]+", "-", f"{place}-{place.db}")
        self._folder = Path(tempfile.gettempdir()) / f"sightline-{os.getuid()}" / service
        self._name = name
        self._held: list[int] = []  #: more than one where the file had gone and was made again: it may come back
        self._wanted = False
        self._has_warned = False  #: that there is no place for the lock

    def hold(self) -> None:
        """Take this worker's lock; while there is no place for it, others wait for the lease's end instead."""
        self._wanted = True
        hidden = self._folder / f".{self._name}"  # unseen until it is locked
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._folder.stat().st_uid != os.getuid():
                return
            lock = os.open(hidden, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                hidden.rename(self._folder / self._name)
            except OSError:
                os.close(lock)
                raise
        except OSError as error:
            if not self._has_warned:
                log.warning("liveness.missing", folder=str(self._folder), reason=str(error))
            self._has_warned = True
            return
        self._held.append(lock)
        self._has_warned = False

    def dead(self) -> list[str]:
        """Name the dead workers of this machine whose locks are left; take our own lock again where its file has gone."""
        if self._wanted and not os.path.exists(self._folder / self._name):  # noqa: PTH110  # Path's raises where there is no way
            self.hold()
        with suppress(OSError):
            return [path.name for path in self._folder.glob("[!.]*") if path.name != self._name and _is_free(path)]
        return []

    def bury(self, names: Iterable[str]) -> None:
        """Forget dead workers, once their jobs are queued again; where their files cannot be removed, they are found again."""
        for name in names:
            with suppress(OSError):
                (self._folder / name).unlink()

    def release(self) -> None:
        """Give this worker's lock up."""
        self._wanted = False
        self.bury([self._name] if self._held else [])
        while self._held:
            os.close(self._held.pop())


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
