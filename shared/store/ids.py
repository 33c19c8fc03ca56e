"""The ids of records: a kind, and a UUID that sorts by time."""

from __future__ import annotations

import re

import uuid_utils


def new_id(kind: str) -> str:
    """Make an id that sorts by time, such as ``job_0198c0de...``."""
    return f"{kind}_{uuid_utils.uuid7().hex}"


def made_ms(ident: str) -> int | None:
    """Tell when an id of :func:`new_id` was made, by its maker's clock; None for any other text."""
    digits = ident[-32:]
    is_ours = re.fullmatch("[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}", digits)
    return int(digits[:12], 16) if is_ours else None
