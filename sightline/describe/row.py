"""A row: what is known of one file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


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
NAMES = frozenset(Row.__dataclass_fields__)
