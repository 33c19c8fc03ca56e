"""Files as they are sent: never a pipe that nobody writes, never half of one content and half of another."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path


class FileChanged(OSError):
    """A file changed while it was read, so what was read is neither what it was nor what it is."""

    code = "file_changed"

    def __init__(self) -> None:
        """Say so."""
        super().__init__(0, "the file changed while it was read; try again once it is whole")


class SteadyFile(io.FileIO):
    """A file on the disk, for reading; it is an error where it changes meanwhile.

    httpx asks for its length once, and sends what it reads: without this, a file that grows would end all with h11's own error.
    """

    def __init__(self, path: str | bytes | os.PathLike[str]) -> None:
        """Open it.

        Raises:
            OSError: it is not there, may not be read, or is a folder, a pipe or a device.
        """
        super().__init__(os.fsdecode(path), "rb", opener=_at_once)
        self.facts: os.stat_result = os.fstat(self.fileno())
        if not stat.S_ISREG(self.facts.st_mode):
            self.close()
            raise OSError(22, "not a regular file")

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most so many bytes, or all.

        Raises:
            FileChanged: it is not as it was when it was opened.
            OSError: it cannot be read.
        """
        data = super().read(-1 if size is None else size)
        now = os.fstat(self.fileno())
        if (now.st_size, now.st_mtime_ns) != (self.facts.st_size, self.facts.st_mtime_ns):
            raise FileChanged
        return data or b""


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe that nobody writes would be waited for, for ever


def file_name(path: Path) -> str:
    """Give a file's name as text; not every file system keeps to UTF-8."""
    return os.fsencode(path.name).decode(errors="replace")
