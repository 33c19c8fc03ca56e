"""Rows, one for each file, and the files that they stand in: appended row by row, read again to go on.

What was torn by a kill is dropped, and a row that was written again later takes the place of the one before.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from sightline.screen import Failure

BOM = b"\xef\xbb\xbf"  # by which Excel knows UTF-8
ROW_START = b'{"path": "'  #: of a row in JSON
_CHUNK_BYTES = 2**20


@dataclass
class Row:
    """What is known of one file.

    ``path`` is relative to the folder that was given, else as it was given; ``fields`` holds what a schema asked for. Jobs are
    the same where ``series``, ``request`` and ``run`` are: of one output, of one question, of one try.
    """

    path: str
    status: str = "failed"
    text: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    modified_at: float | None = None
    fields: dict[str, Any] | None = None
    flags: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    usage: dict[str, int] = field(default_factory=dict)
    model: str | None = None
    error: dict[str, Any] | None = None
    job: str | None = None
    request: str = ""
    series: str = ""
    run: int = 0

    @property
    def is_good(self) -> bool:
        """Whether there is a text."""
        return self.status == "succeeded"

    def as_json(self) -> bytes:
        """Write a line of JSON; bytes of a name that are not UTF-8 become JSON's own escapes of half surrogates."""
        own = {name: value for name, value in asdict(self).items() if value is not None or name in _ALWAYS}
        return json.dumps(own, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


_ALWAYS = frozenset({"path", "status", "text", "error"})
_NAMES = frozenset(Row.__dataclass_fields__)


class Codec(Protocol):
    """How rows stand in a file."""

    def header(self) -> bytes:
        """Give what the file begins with."""
        ...

    def encode(self, row: Row) -> bytes:
        """Write a row."""
        ...

    def whole_bytes(self, file: BinaryIO) -> int:
        """Say how long the file is without the row that a kill tore."""
        ...

    def decode(self, file: BinaryIO) -> Iterator[Row]:
        """Read all rows, or raise ValueError where something else stands."""
        ...


class Jsonl:
    """A JSON object a line."""

    def header(self) -> bytes:
        """Give nothing."""
        return b""

    def encode(self, row: Row) -> bytes:
        """Write a row."""
        return row.as_json()

    def whole_bytes(self, file: BinaryIO) -> int:
        """Find the end of the last line."""
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _CHUNK_BYTES)
            file.seek(start)
            if (found := file.read(end - start).rfind(b"\n")) >= 0:
                return start + found + 1
            end = start
        return 0

    def decode(self, file: BinaryIO) -> Iterator[Row]:
        """Read all rows."""
        for line in file:
            if line.strip():
                found = json.loads(line)
                if not isinstance(found, dict) or "path" not in found or "status" not in found:
                    raise ValueError
                yield Row(**{name: value for name, value in found.items() if name in _NAMES})


class Csv:
    """Comma-separated values that Excel opens: UTF-8 with its mark, a cell for each field."""

    def __init__(self, columns: list[str]) -> None:
        """Give the fields of a schema columns of their own."""
        self._own = columns
        counts = ["prompt_tokens", "vision_tokens", "output_tokens"]
        facts = ["sha256", "size_bytes", "modified_at", "model", "job", "request", "series", "run"]
        self._columns = ["path", "status", "text", *columns, "flags", "error_code", "error", "finish_reason", *counts, *facts]

    def header(self) -> bytes:
        """Give Excel's mark and the names of the columns."""
        return BOM + self._line(self._columns)

    def encode(self, row: Row) -> bytes:
        """Write a row."""
        cells = asdict(row) | row.usage | {f"own:{name}": value for name, value in (row.fields or {}).items()}
        error = row.error or {}
        cells |= {"flags": " ".join(row.flags), "error_code": error.get("code"), "error": error.get("message")}
        names = [f"own:{name}" if name in self._own else name for name in self._columns]
        return self._line([_cell(cells.get(name)) for name in names])

    @staticmethod
    def _line(cells: list[str]) -> bytes:
        text = io.StringIO()
        csv.writer(text).writerow(cells)
        return text.getvalue().encode("utf-8", "backslashreplace")

    def whole_bytes(self, file: BinaryIO) -> int:
        """Find the last end of a line that stands outside quotes."""
        file.seek(0)
        position, whole, quotes = 0, 0, 0
        for line in file:
            position += len(line)
            quotes += line.count(b'"')
            if quotes % 2 == 0 and line.endswith(b"\n"):
                whole = position
        return whole

    def decode(self, file: BinaryIO) -> Iterator[Row]:
        """Read all rows."""
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        try:
            reader = csv.reader(text)
            if next(reader, None) not in (None, self._columns):
                raise ValueError
            for cells in reader:
                yield self._row(dict(zip(self._columns, cells, strict=True)))
        finally:
            text.detach()

    def _row(self, cells: dict[str, str]) -> Row:
        is_good = cells["status"] == "succeeded"
        error = {"code": cells["error_code"], "message": cells["error"]} if cells["error_code"] else None
        facts: dict[str, Any] = {name: int(cells[name]) for name in ("size_bytes", "run") if cells[name]}
        facts |= {name: cells[name] or None for name in ("sha256", "model", "job", "finish_reason")}
        return Row(
            cells["path"],
            cells["status"],
            cells["text"] if is_good or cells["text"] else None,
            modified_at=float(cells["modified_at"]) if cells["modified_at"] else None,
            fields={name: cells[name] for name in self._own} if self._own and is_good else None,
            flags=cells["flags"].split(),
            usage={name: int(value) for name, value in cells.items() if name.endswith("_tokens") and value},
            error=error,
            request=cells["request"],
            series=cells["series"],
            **facts,
        )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class RowFile:
    """A file of rows, held by one process at a time."""

    def __init__(self, path: Path, codec: Codec) -> None:
        """Open the file, or make it; a torn last row is cut off.

        Raises:
            Failure: it cannot be written, another process writes it, or it holds something else.
        """
        self.path, self._codec = path, codec
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _hold(path)
        except OSError as error:
            raise Failure(f"cannot write {path}: {error.strerror or error}") from error
        self._drop_torn_row()
        if self._file.seek(0, os.SEEK_END) == 0:
            self._file.write(codec.header())

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
        except (ValueError, TypeError) as error:
            raise self._foreign() from error
        finally:
            reader.detach()

    def append(self, row: Row) -> None:
        """Write a row, whole or not at all.

        Raises:
            Failure: the disk is full, or gone.
        """
        end = self._file.seek(0, os.SEEK_END)
        data = self._codec.encode(row)
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            self._file.truncate(end)
            raise Failure(
                f"cannot write {self.path}: {error.strerror}; run the same command again once it can be written"
            ) from error

    def keep(self, is_newest: Callable[[int, Row], bool]) -> None:
        """Write the file anew with the rows for which this is true, given their number; then it takes the old one's place."""
        other = self.path.with_name(f".{self.path.name[:200]}.new")
        with other.open("w+b", buffering=_CHUNK_BYTES) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(self._codec.header())
            for number, row in enumerate(self.read()):
                if is_newest(number, row):
                    file.write(self._codec.encode(row))
            file.flush()
            os.fsync(file.fileno())
            os.replace(other, self.path)  # noqa: PTH105  # what is held is the new one
            self._file.close()
            self._file = io.FileIO(os.dup(file.fileno()), "r+")

    def close(self) -> None:
        """Write everything to the disk and let others have the file."""
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
