"""Where a model's weights lie, what is the matter with them, and the note beside them. Pure but for reading the disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Missing:
    """Why a model cannot be loaded, and what is to be done about it."""

    found: str
    fix: str

    def __str__(self) -> str:
        return f"{self.found}; {self.fix}"


def missing(name: str, models_dir: Path) -> Missing | None:
    """Say what is the matter with a model's weights, if anything.

    Args:
        name: as the setting ``MODEL`` has it: ``owner/model`` on a hub, or the path of a folder.
        models_dir: the folder of all models.
    """
    if find(name, models_dir):
        return None
    path = Path(name).expanduser()
    fix = "give the folder of a checkpoint, or a name such as Qwen/Qwen2.5-VL-3B-Instruct, as SIGHTLINE_MODEL"
    if path.exists():
        what = "is no folder" if not path.is_dir() else "has no config.json, so it holds no checkpoint"
        return Missing(f"{path} {what}", fix)
    wanted = folder(name, models_dir)
    if note(wanted):
        return Missing(f"the weights of {name} were only fetched in part: {wanted}", f"sightline models pull {name}")
    if name.startswith(("/", ".", "~")) or name.count("/") != 1 or not all(name.split("/")):
        return Missing(f"there is no folder {path}", fix)
    return Missing(f"the weights of {name} are not there: {wanted}", f"sightline models pull {name}")
