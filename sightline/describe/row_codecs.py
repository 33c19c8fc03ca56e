"""How rows stand in a file: lines of JSON, or a table that Excel opens."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import asdict
from typing import Any, BinaryIO, Protocol

from sightline.describe.row import NAMES, Row

BOM = b"\xef\xbb\xbf"  # by which Excel knows UTF-8
_CHUNK_BYTES = 2**20
#: How bytes of a name that are not UTF-8 stand in a table.
_HALF = re.compile(r"\\u(dc[89a-f][0-9a-f])")
csv.field_size_limit(2**31 - 1)  # a path may be a picture: a data-URL


def clear_of(taken: Collection[str], name: str) -> str:
    """Give a schema's property a name that is not another column's: it may ask for a ``text``, too."""
    return f"fields.{name}" if name in taken else name


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
                yield Row(**{name: value for name, value in found.items() if name in NAMES})


class Csv:
    """Comma-separated values that Excel opens: UTF-8 with its mark, a cell for each field."""

    def __init__(self, columns: list[str]) -> None:
        """Give the fields of a schema columns of their own."""
        counts = ["prompt_tokens", "vision_tokens", "output_tokens"]
        facts = ["sha256", "size_bytes", "modified_at", "model", "job", "request", "series", "run"]
        first, last = ["path", "status", "text"], ["flags", "error_code", "error", "finish_reason", *counts, *facts]
        self._own = {name: clear_of({*first, *last}, name) for name in columns}
        self._columns = [*first, *self._own.values(), *last]

    def header(self) -> bytes:
        """Give Excel's mark and the names of the columns."""
        return BOM + self._line(self._columns)

    def encode(self, row: Row) -> bytes:
        """Write a row."""
        error, fields = row.error or {}, row.fields or {}
        cells = {self._own[name]: value for name, value in fields.items() if name in self._own} | asdict(row) | row.usage
        cells |= {"flags": " ".join(row.flags), "error_code": error.get("code"), "error": error.get("message")}
        return self._line([_cell(cells.get(name)) for name in self._columns])

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
            _HALF.sub(lambda found: chr(int(found[1], 16)), cells["path"]),
            cells["status"],
            cells["text"] if is_good or cells["text"] else None,
            modified_at=float(cells["modified_at"]) if cells["modified_at"] else None,
            fields={name: cells[column] for name, column in self._own.items()} if self._own and is_good else None,
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
