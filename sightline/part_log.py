"""What a part wrote to its log since it was started: how far it is, and in a sentence why it ended."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Events of a worker's log, and what it does from then on.
_DOING = {
    "engine.chosen": "starting the engine",
    "engine.loading": "loading the model",
    "engine.warming_up": "warming up",
    "engine.ready": "starting the decoders",
    "store.unreachable": "waiting for Redis",
}
_ERRORS = {"error", "critical", "exception"}


@dataclass(frozen=True)
class PartLog:
    """The log of one run of a part.

    Attributes:
        path: the file, to which every run appends.
        start: where this run's lines begin, in bytes.
    """

    path: Path
    start: int = 0

    def doing(self) -> str:
        """Say what a worker that starts is doing."""
        said = [_DOING[event] for line in self._lines() if (event := _record(line).get("event")) in _DOING]
        return said[-1] if said else "starting the worker"

    def obituary(self, name: str, code: int) -> str:
        """Say in one sentence how the part ended.

        Args:
            name: the part's.
            code: its exit code; below 0 the number of the signal that killed it, of which its log knows nothing.
        """
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}: {self.reason()}"
        return f"{name} {how} (its log: {self.path})"

    def reason(self) -> str:
        """Say why the part ended: its last error, else its last line."""
        lines = [line for line in self._lines() if line.strip()]
        for line in reversed(lines):
            record = _record(line)
            if record.get("level") in _ERRORS:
                return " ".join(str(record.get("error") or record["event"]).split())
        return (_record(lines[-1]).get("event") or lines[-1].strip()) if lines else "it wrote nothing to its log"

    def _lines(self) -> list[str]:
        try:
            with self.path.open("rb") as log:
                log.seek(self.start)
                return log.read().decode(errors="replace").splitlines()
        except OSError:
            return []


def open_log(path: Path) -> PartLog:
    """Begin a run's log, in its folder, behind the lines of earlier runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return PartLog(path, path.stat().st_size if path.exists() else 0)


def _record(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and "event" in found else {}
