"""JSON as the gateway reads it: what could not be written again, or two readers would read differently, is refused.

Python's own reader lets half surrogate pairs, NaN and doubled names in; each would come back as a 500 from wherever the value
is written next. Pure: no I/O.
"""

from __future__ import annotations

import json
import math
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json

from shared.errors import InvalidRequest

#: pydantic's own reader stops at 200, whose stack is Rust's.
MAX_DEPTH = 200
MAX_PATH = 200  #: characters of the path that an error shows

#: Values that are looked at to say which one is at fault: a body of ten million would stop the gateway for seconds.
MAX_LOOKED_AT = 100_000

_FILE = b";base64,"
LONG_FILE = 10_000  #: bytes of one that is worth leaving out, and longer than any name that somebody could double

_HALF_PAIR = re.compile("[\ud800-\udfff]")
#: An escape of NUL: an odd number of backslashes stands in front of it.
_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_NO_TEXT = "a text holds half a surrogate pair, which is no character"
_TOO_DEEP = f"the body is nested deeper than {MAX_DEPTH} levels"
_NUL = "a text holds the character NUL"


class _Doubled(ValueError):
    """A name stands twice in one object."""


def read_json(data: bytes) -> Any:
    """Read a body or a line of a batch.

    Raises:
        InvalidRequest: no JSON, or JSON that is refused; it says where.
    """
    data = data.removeprefix(BOM_UTF8)  # as editors and shells on Windows write it
    try:
        value = from_json(data, allow_inf_nan=False)
        check_json(data)
    except (ValueError, RecursionError) as error:
        raise _explain(data) from error
    return value


def check_json(data: bytes) -> None:
    """Look for what pydantic's reader lets in: doubled names, numbers beyond a float's range, NUL.

    Raises:
        ValueError: one of them is there; :func:`read_json` says which and where.
    """
    json.loads(_without_files(data), object_pairs_hook=_once, parse_float=_finite)
    if b"\\" in data and _ESCAPED_NUL.search(data):  # the lone byte is found in no time, where there is none
        raise ValueError(_NUL)


def _without_files(data: bytes) -> bytes:
    """Leave the files in data-URLs out of a body that pydantic has read: a text without escapes ends at the next quote."""
    start, kept = 0, list[bytes]()
    while (file := data.find(_FILE, start)) >= 0 and (end := data.find(b'"', file)) >= 0:
        is_whole = end - file > LONG_FILE and data.find(b"\\", file, end) < 0
        kept.append(data[start : file if is_whole else end])
        start = end
    return b"".join([*kept, data[start:]]) if kept else data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise _Doubled(next(name for n, name in enumerate(names) if name in names[:n]))
    return found


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(digits)
    return value


def _explain(data: bytes) -> InvalidRequest:
    """Say what is wrong with a body that cannot be read, and where."""
    try:
        reason, path = _flaw(json.loads(data.decode(), object_pairs_hook=_once)) or (_TOO_DEEP, "")
    except (ValueError, RecursionError) as error:
        reason, path = _in_words(error), ""
    return InvalidRequest(f"{path}: {reason}" if path else reason, param=path or None)


def _in_words(error: Exception) -> str:
    match error:
        case UnicodeDecodeError():
            return f"the body is no valid JSON: byte {error.start + 1} is not UTF-8"
        case json.JSONDecodeError():
            return f"the body is no valid JSON: see line {error.lineno}, column {error.colno}"
        case _Doubled():
            return f"the name {str(error)[:100]!a} stands twice in one object"
        case RecursionError():
            return _TOO_DEEP
    return "the body holds a number of more digits than can be read"


def _flaw(root: Any) -> tuple[str, str] | None:
    """Find the first value that cannot be written again, and its path; without recursion, since it may be nested deeply."""
    entered: list[tuple[str, Iterator[tuple[str, Any]]]] = [("", iter([("", root)]))]
    for _ in range(MAX_LOOKED_AT):
        path, members = entered[-1]
        name, value = next(members, (None, None))
        if name is None:
            entered.pop()
            if not entered:
                return None
            continue
        if reason := _reason(name):
            return reason, path
        here = f"{path}.{name}".strip(".")[:MAX_PATH]
        if reason := _reason(value):
            return reason, here
        if isinstance(value, dict):
            entered.append((here, iter(value.items())))
        elif isinstance(value, list):
            entered.append((here, ((str(n), member) for n, member in enumerate(value))))
    return "a text or number in it cannot be written again", ""


def _reason(value: object) -> str | None:
    if isinstance(value, str):
        return _NO_TEXT if _HALF_PAIR.search(value) else _NUL if "\0" in value else None
    if isinstance(value, float) and not math.isfinite(value):
        return "a number is not finite, or larger than can be read"
    return None
