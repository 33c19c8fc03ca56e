"""A file of rows, one for each file that was described: appended row by row, read again to go on.

What was torn by a kill is dropped, and a row that was written again later takes the place of the one before.
"""

from __future__ import annotations

import csv
import fcntl
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from sightline.describe.disk import moved_to, writing
from sightline.describe.row import Row
from sightline.describe.row_codecs import Codec
from sightline.screen import Failure

ROW_START = b'{"path": "'  #: of a row in JSON
_CHUNK_BYTES = 2**20


class RowFile:
    """A file of rows, held by one process at a time."""

    def __init__(self, path: Path, codec: Codec) -> None:
        """Open the file, or make it; a torn last row is cut off.

        Raises:
            Failure: it cannot be written, another process writes it, or it holds something else.
        """
        self.path, self._codec = path, codec
        self.is_new = not path.exists()
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _hold(path)
            self._drop_torn_row()
            if self._file.seek(0, os.SEEK_END) == 0:
                self._write(codec.header())

    def _drop_torn_row(self) -> None:
        """Cut off what a kill tore, once it is sure that the file is ours: a stranger's last line may have no end."""
        header = self._codec.header()
        reader = io.BufferedReader(self._file, _CHUNK_BYTES)
        whole = self._codec.whole_bytes(reader)
        reader.seek(0)
        start = reader.read(len(header or ROW_START))
        reader.detach()
        try:
            if whole > len(header):
                next(self.read(), None)
            elif not (header or ROW_START).startswith(start):
                raise self._foreign()
        except Failure:
            self._file.close()
            raise
        self._file.truncate(whole)

    def _foreign(self) -> Failure:
        return Failure(f"{self.path} holds something else than rows of `sightline describe`; name another file with -o")

    def read(self) -> Iterator[Row]:
        """Give the rows, oldest first.

        Raises:
            Failure: something else stands in the file; it is left as it is.
        """
        self._file.seek(0)
        reader = io.BufferedReader(self._file, _CHUNK_BYTES)
        try:
            yield from self._codec.decode(reader)
        except (ValueError, TypeError, csv.Error) as error:
            raise self._foreign() from error
        finally:
            reader.detach()

    def append(self, row: Row) -> None:
        """Write a row, whole or not at all.

        Raises:
            Failure: the disk is full, or gone.
        """
        self._file.seek(0, os.SEEK_END)
        with writing(self.path):
            self._write(self._codec.encode(row))

    def _write(self, data: bytes) -> None:
        """Write at the end, all of it or nothing."""
        end = self._file.tell()
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError:
            self._file.truncate(end)
            raise

    def keep(self, is_newest: Callable[[int, Row], bool]) -> None:
        """Write the file anew with the rows for which this is true, given their number; then it takes the old one's place."""
        with moved_to(self.path) as other, other.open("w+b", buffering=_CHUNK_BYTES) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(self._codec.header())
            for number, row in enumerate(self.read()):
                if is_newest(number, row):
                    file.write(self._codec.encode(row))
            file.flush()
            os.fsync(file.fileno())
            held = io.FileIO(os.dup(file.fileno()), "r+")  # what is held is the new one
        self._file.close()
        self._file = held

    def close(self) -> None:
        """Write everything to the disk and let others have the file."""
        with writing(self.path):
            os.fsync(self._file.fileno())
        self._file.close()


def _hold(path: Path) -> io.FileIO:
    while True:
        file = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise Failure(f"another `sightline describe` writes {path}; wait for its end, or name another file") from error
        if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            return file
        file.close()  # it was written anew at this very moment
