"""The folder that a running `up` keeps its data in: one `up` at a time, and a note of where it is.

The lock is the kernel's: every part inherits it, so a folder is free once the last one has left it, and at once after kill -9.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shared.settings import Settings

_NAME = "up.lock"
#: How long the parts of an `up` that was killed may take to leave; a worker gives its jobs DRAIN_S.
LEAVE_S = 90.0


class StateHeld(Exception):
    """Another `up` works on the folder; the message says which."""


def take(folder: Path, tell: Callable[[str], None] = lambda _: None) -> int:
    """Take a folder for this process and those that inherit the descriptor.

    Args:
        folder: made when it is missing.
        tell: gets what is waited for.

    Returns:
        The descriptor of the lock.

    Raises:
        StateHeld: another one has it.
        OSError: the folder cannot be written to.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder / _NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    until_s = time.monotonic() + LEAVE_S
    while not _lock(lock):
        other = _note(folder)
        pid = other.get("pid", 0)
        if (pid and _lives(pid)) or time.monotonic() > until_s:
            os.close(lock)
            who = f"process {pid} at {other['url']}" if pid else "another process"
            msg = f"`sightline up` runs on {folder} already: {who}. Stop it, or give this one its own folder with --state"
            raise StateHeld(msg)
        if pid:
            tell(f"waiting for the parts of the `up` before, process {pid}, to end")
        time.sleep(0.1)
    return lock


def write_note(lock: int, facts: Mapping[str, Any]) -> None:
    """Leave in the folder where this `up` is reached."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps({"pid": os.getpid(), **facts}).encode(), 0)


def redis_facts(settings: Settings) -> dict[str, Any]:
    """Give what a note says of Redis: the settings by which one reaches it."""
    return settings.model_dump(mode="json", include={name for name in Settings.model_fields if name.startswith("redis_")})


def reaching_up(settings: Settings, folder: Path, *, always: bool = False) -> tuple[Settings, bool]:
    """Point settings that name no Redis at that of the `up` that runs on a folder.

    Args:
        settings: of this process.
        folder: what `up` keeps.
        always: also where they do name one.

    Returns:
        The settings, and whether an `up` runs there that was asked for.
    """
    up = running_up(folder) if always or "redis_url" not in settings.model_fields_set else None
    if not up:
        return settings, False
    return settings.model_copy(update={name: up[name] for name in redis_facts(settings) if name in up}), True


def running_up(folder: Path) -> dict[str, Any] | None:
    """Give the note of the `up` that runs on a folder: pid, url, how its Redis is reached; None where none does."""
    try:
        lock = os.open(folder / _NAME, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return None if _lock(lock) else _note(folder) or None
    finally:
        os.close(lock)


def _lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _note(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / _NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
