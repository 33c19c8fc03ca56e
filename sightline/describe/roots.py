"""Which folder the paths of an output are relative to: an output goes on where they lead to the files that it was made of."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from sightline.client.files import SteadyFile
from sightline.describe.lists import is_address
from sightline.describe.row import Row

#: So many files tell a folder that was moved from another one.
SAMPLE = 16


def mark_of(root: Path) -> str:
    """Name a folder in few characters, and without telling where it is."""
    return hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:8]


def is_telling(row: Row) -> bool:
    """Say whether a row knows what its file was like, and means another one as seen from another folder."""
    return row.sha256 is not None and not is_address(row.path) and not Path(row.path).is_absolute()


def are_here(rows: Sequence[Row], root: Path) -> bool:
    """Say whether most of these rows' files that are in this folder are as the rows have them, and some are."""
    alike = [_is_alike(row, root / row.path) for row in rows if os.path.lexists(root / row.path)]
    return not rows or 2 * sum(alike) > len(alike)


def _is_alike(row: Row, path: Path) -> bool:
    try:
        facts = path.stat()
        if (facts.st_size, facts.st_mtime) == (row.size_bytes, row.modified_at):
            return True
        with SteadyFile(path) as file:  # it was copied, perhaps
            return facts.st_size == row.size_bytes and hashlib.file_digest(file, "sha256").hexdigest() == row.sha256
    except OSError:
        return False
