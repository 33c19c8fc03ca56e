"""Where a model's weights lie, and the note beside them that says what they are. Pure but for reading that note."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: The note beside the weights, written by `sightline models pull`.
NOTE = "sightline.json"


def folder(name: str, models_dir: Path) -> Path:
    """Say where the weights of a model lie, whether or not they are there.

    Args:
        name: ``owner/model`` on the hub.
        models_dir: the folder of all models.
    """
    return models_dir / name.replace("/", "__")


def note(path: Path) -> dict[str, Any]:
    """Read the note beside the weights.

    Args:
        path: a model's folder.

    Returns:
        ``name``, ``source``, ``revision`` and ``complete``; empty for weights that came another way.
    """
    try:
        found = json.loads((path / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def find(name: str, models_dir: Path) -> Path | None:
    """Find the weights of a model.

    Args:
        name: ``owner/model`` on the hub, or the path of a folder that holds a checkpoint.
        models_dir: the folder of all models.

    Returns:
        The folder; ``None`` when it is not there, holds no checkpoint, or its fetch was cut off.
    """
    for path in (Path(name).expanduser(), folder(name, models_dir)):
        if (path / "config.json").is_file() and note(path).get("complete", True):
            return path
    return None
