"""Lists and tables that name files, as Linux writes them, and as Windows, Excel and people do."""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from sightline.screen import Failure

ADDRESSES = ("http://", "https://", "data:")
_COLUMN = re.compile(r"(?P<file>.+\.(csv|tsv|jsonl|ndjson)):(?P<column>[^/\\]+)", re.IGNORECASE | re.DOTALL)
_TABLES, _SEPARATED = (".csv", ".tsv", ".jsonl", ".ndjson"), (".csv", ".tsv")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CHUNK_BYTES = 2**16
#: So many names show whether a table is in the encoding that it seems to be in.
_ENOUGH = 100
csv.field_size_limit(2**31 - 1)  # a cell may hold a picture: a data-URL


def is_address(path: str) -> bool:
    """Say whether this is no path."""
    return path[:8].lower().startswith(ADDRESSES)


def column_of(source: str) -> tuple[str, str] | None:
    """Split ``table.csv:column``; None where it is something else."""
    found = _COLUMN.fullmatch(source)
    return (found["file"], found["column"]) if found and not Path(source).exists() else None


def refuse_table(source: str) -> None:
    """Ask for a column where a table is given as if it were a picture or a list.

    Raises:
        Failure: it has columns, and no line of it names a file.
    """
    if not source.lower().endswith(_TABLES) or not Path(source).is_file():
        return
    encoding = _encoding(source)
    with Path(source).open(encoding=encoding, newline="") as lines:
        first = lines.readline().strip()
    if is_address(first) or os.path.lexists(first):
        return
    columns = list(next(_rows(source, encoding), (0, dict[str, Any]()))[1])
    if len(columns) > 1 or not source.lower().endswith(_SEPARATED):
        msg = f"{source} is a table; name the column with the paths, as in {source}:{columns[-1] if columns else 'COLUMN'}"
        raise Failure(f"{msg} (its columns: {', '.join(columns) or 'none'})")


def lines_of(file: int | str, name: str) -> Iterator[list[str]]:
    """Read a list as it comes, in parts; NUL separates where it stands in it.

    Raises:
        Failure: it cannot be read.
    """
    try:
        with open(file, "rb", buffering=0, closefd=not isinstance(file, int)) as lines:  # a number, too
            rest = b""
            for data in _as_utf8(iter(lambda: lines.read(_CHUNK_BYTES), b"")):
                *whole, rest = re.split(rb"\0" if b"\0" in rest + data else rb"\r?\n", rest + data)
                yield [meant(os.fsdecode(line)) for line in whole if line.strip()]
            if rest.strip():
                yield [meant(os.fsdecode(rest))]
    except OSError as error:
        raise Failure(f"cannot read {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Failure(f"cannot read {name}: it begins as UTF-16 and is none; save it as UTF-8") from error


def _as_utf8(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Take off the mark by which Windows knows Unicode, and turn what its editor calls Unicode into UTF-8."""
    first = b""
    for part in parts:
        first += part
        if len(first) >= len(codecs.BOM_UTF8) or b"\n" in first:
            break
    if not first.startswith(_UTF16):
        yield first.removeprefix(codecs.BOM_UTF8)
        yield from parts
        return
    decoder = codecs.getincrementaldecoder("utf-16")()
    yield decoder.decode(first).encode("utf-8", "surrogatepass")
    for part in parts:
        yield decoder.decode(part).encode("utf-8", "surrogatepass")
    yield decoder.decode(b"", final=True).encode()


def meant(name: str, folder: str = "") -> str:
    """Say which file a line means: as it stands where there is such a file, else without quotes and blanks around it.

    Args:
        name: the line; bytes that are no UTF-8 are tried as GBK, in which Windows writes Chinese.
        folder: that it is relative to.
    """
    tidy = name.strip()
    if len(tidy) > 1 and tidy[0] == tidy[-1] and tidy[0] in "\"'":
        tidy = tidy[1:-1]  # as Windows copies a path
    if tidy == name and _from_gbk(name) is None:
        return name
    for written in (name, tidy, _from_gbk(tidy)):
        if written and os.path.lexists(os.path.join(folder, written)):  # noqa: PTH118  # bytes that are no UTF-8 stay as they are
            return written
    return tidy


def _from_gbk(name: str) -> str | None:
    """Read a name that is no UTF-8 as GBK; None where it is UTF-8, or neither."""
    try:
        name.encode()
    except UnicodeEncodeError:
        try:
            return os.fsencode(name).decode("gb18030")
        except UnicodeError:
            return None
    return None


def column(file: str, name: str) -> Iterator[str]:
    """Read a column of a table; paths in it are relative to the table's folder.

    The table is read to its end before the first of it is given, so that a mistake in its last line is told at once.

    Raises:
        Failure: it cannot be read, or has no such column.
    """
    encoding, columns, odd = _encoding(file), dict[str, None](), list[str]()
    for number, row in _rows(file, encoding):
        columns |= dict.fromkeys(row)
        value = row.get(name)
        if value is not None and not isinstance(value, str):
            raise Failure(f"{file}, line {number}: {name} is no text, but {json.dumps(value, ensure_ascii=False)[:60]}")
        if value and not value.isascii() and len(odd) < _ENOUGH:
            odd.append(value)
    if name not in columns:
        raise Failure(f"{file} has no column {name}; its columns: {', '.join(columns) or 'none'}")
    folder = os.path.dirname(file)  # noqa: PTH120
    if encoding == "gb18030" and name.isascii() and odd and not any(_is_there(value, folder) for value in odd):
        raise _not_utf8(file)  # it may be Japanese, or French
    for _, row in _rows(file, encoding):
        value = row.get(name)
        if value and value.strip():
            value = meant(value, folder)
            yield value if is_address(value) else os.path.join(folder, value)  # noqa: PTH118


def _is_there(value: str, folder: str) -> bool:
    return os.path.lexists(os.path.join(folder, meant(value, folder)))  # noqa: PTH118


def _rows(file: str, encoding: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Give the rows of a table, each with the number of its line, or one without values where there are names only."""
    number = 1
    try:
        with Path(file).open(encoding=encoding, newline="") as lines:
            if file.lower().endswith(_SEPARATED):
                table = csv.reader(lines, delimiter=_delimiter(lines))
                names = [name.strip() for name in next(table, [])]
                yield 1, dict.fromkeys(names)
                for cells in table:
                    number = table.line_num
                    yield number, dict(zip(names, cells, strict=False))  # a line may lack some, and have too many
                return
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, dict(json.loads(line))
    except OSError as error:
        raise Failure(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, TypeError, csv.Error) as error:
        wanted = "row of a table" if file.lower().endswith(_SEPARATED) else "JSON object"
        raise Failure(f"cannot read {file}: line {number} is no {wanted}; mend it, or take it out") from error


def _delimiter(lines: TextIO) -> str:
    """Say what separates a table's columns: Excel writes semicolons where the comma is the decimal point."""
    head = lines.readline()
    lines.seek(0)
    return max(",;\t", key=head.count)


def _encoding(file: str) -> str:
    """Say how a table is written: Excel asks nobody, and takes that of the country.

    Raises:
        Failure: it cannot be read, or that cannot be known.
    """
    try:
        with Path(file).open("rb") as found:
            if found.read(2) in _UTF16:
                return "utf-16"
        for encoding in ("utf-8-sig", "gb18030"):
            try:
                with Path(file).open(encoding=encoding) as text:
                    while text.read(_CHUNK_BYTES):
                        pass
            except UnicodeDecodeError:
                continue
            return encoding
    except OSError as error:
        raise Failure(f"cannot read {file}: {error.strerror}") from error
    raise _not_utf8(file)


def _not_utf8(file: str) -> Failure:
    return Failure(f"cannot read {file}: it is not UTF-8; save it as «CSV UTF-8»")
