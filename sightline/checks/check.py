"""A line of the report: what was looked at, whether it works, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    pass

Level = Literal["required", "optional"]
INSTALL = "`make install` in the repository; on a machine with an NVIDIA GPU: `make install-gpu`"


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: the part.
        ok: whether it works.
        detail: what was found.
        fix: what to do about it, when something is to be done.
        level: a part that is only optional does not fail the report.
    """

    name: str
    ok: bool
    detail: str
    fix: str | None = None
    level: Level = "required"
