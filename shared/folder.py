"""A folder of files, as quick as a disk allows: uploads and inline media of a service on one machine."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from shared.errors import StorageFull
from shared.store.autopipeline import AutoPipeline

FOLDER_TRIES = 5
#: Up to this size a file is written by the event loop itself: the way to a thread and back costs more than the disk.
AT_ONCE_BYTES = 64 * 1024
#: A disk that takes longer for one of those is a network's or stalls: for a minute, threads wait for it instead of the loop.
SLOW_S, SLOW_FOR_S = 0.02, 60.0


class Folder:
    """Files by name. Methods raise OSError; a folder that vanished is not made again."""

    def __init__(self, path: Path, *, min_free_bytes: int) -> None:
        """Use a folder whose disk keeps so much free."""
        self.path = path
        self._min_free_bytes = min_free_bytes
        self._disk = AutoPipeline(_in_thread)
        self._slow_until = 0.0

    def check_room(self, n_bytes: int) -> None:
        """Refuse what would fill the disk.

        Raises:
            StorageFull: it would.
        """
        if shutil.disk_usage(self.path).free < self._min_free_bytes + n_bytes:
            raise StorageFull(retry_after_s=60)

    async def write(self, name: str, data: bytes) -> None:
        """Write a file; a small one at once, where the disk is quick."""
        began = time.monotonic()
        if len(data) > AT_ONCE_BYTES or began < self._slow_until:
            await self._disk.send(partial(_write, self.path, name, data))
            return
        _write(self.path, name, data)
        if time.monotonic() - began > SLOW_S:
            self._slow_until = began + SLOW_FOR_S

    async def read(self, name: str) -> bytes:
        """Read a file."""
        return await asyncio.to_thread(_read, self.path, name)

    async def remove(self, names: Sequence[str]) -> None:
        """Remove files, and the folders that they leave empty; those already gone are no error."""
        await asyncio.to_thread(_remove, self.path, names)

    async def names(self, top: str, at_once: int) -> AsyncGenerator[list[str]]:
        """List the files under a name, so many at a time, also those that were never finished."""
        walk = _walk(self.path, top)
        while page := await asyncio.to_thread(lambda: list(islice(walk, at_once))):
            yield page


async def _in_thread(calls: list[Callable[[], Any]]) -> Sequence[Any]:
    return await asyncio.to_thread(_make_all, calls)


def _make_all(calls: list[Callable[[], Any]]) -> Sequence[Any]:
    answers: list[Any] = []
    for call in calls:
        try:
            answers.append(call())
        except Exception as error:  # noqa: BLE001  # its caller gets it
            answers.append(error)
    return answers


def _path(folder: Path, name: str) -> str:
    if ".." in name.split("/") or "\0" in name:
        msg = "a name is no path that leads out of the folder"
        raise ValueError(msg)
    return f"{folder}/{name}"


def _walk(folder: Path, name: str) -> Iterator[str]:
    try:
        entries = os.scandir(_path(folder, name))  # lazily: a folder may hold a million files
    except FileNotFoundError:
        if not folder.is_dir():
            raise
        return
    with entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(folder, f"{name}/{entry.name}")
            elif entry.is_file(follow_symlinks=False):
                yield f"{name}/{entry.name}"


def _read(folder: Path, name: str) -> bytes:
    with open(_path(folder, name), "rb") as file:  # noqa: PTH123
        return file.read()


def _remove(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        path = _path(folder, name)
        with suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108  # a fifth of pathlib's time
        with suppress(OSError):  # a folder that others are in stays; so do the few at the top, which would soon be made again
            for _ in range(name.strip("/").count("/") - 1):
                os.rmdir(path := os.path.dirname(path))  # noqa: PTH106, PTH120


def _write(folder: Path, name: str, data: bytes) -> None:
    path = _path(folder, name)  # not one to be renamed at the end: nobody knows its name yet, and that took half as long again
    file = _open_new(path)
    try:
        with file:
            file.write(data)
    except OSError:
        Path(path).unlink(missing_ok=True)
        raise


def _open_new(path: str) -> BinaryIO:
    """Open a file in a folder that may not be there yet, or go at this moment: who deletes its last file removes it, too."""
    for _ in range(FOLDER_TRIES):
        try:
            return open(path, "wb")  # noqa: PTH123
        except FileNotFoundError:
            with suppress(FileNotFoundError):
                os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120  # half of pathlib's time
    return open(path, "wb")  # noqa: PTH123
