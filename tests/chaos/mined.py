"""``python -m tests.chaos.mined api.main`` or ``... worker.main jobs``: a part with mines at the points that hurt most.

A process that comes by a point dies there, as under kill -9, with its whole group, if a file named after its pid orders so.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.store.jobs import JobStore

FOLDER = "CHAOS_MINES"  #: the variable that names the folder of orders
BEFORE_CLAIM, BEFORE_COMPLETE, AFTER_COMPLETE, AFTER_SUBMIT = (
    "before_claim",
    "before_complete",
    "after_complete",
    "after_submit",
)


def order(folder: Path, pid: int, point: str) -> Path:
    """Order a process to die at a point; removing the file takes the order back."""
    path = folder / str(pid)
    path.write_text(point)
    return path


def _pass(point: str) -> None:
    path = Path(os.environ[FOLDER]) / str(os.getpid())
    if path.exists() and path.read_text() == point:
        os.killpg(0, signal.SIGKILL)


def _lay(owner: type, method: str, *, before: str = "", after: str = "") -> None:
    original: Callable[..., Any] = getattr(owner, method)

    @functools.wraps(original)
    async def mined(*args: Any, **options: Any) -> Any:
        _pass(before)
        answer = await original(*args, **options)
        _pass(after)
        return answer

    setattr(owner, method, mined)


def main() -> None:
    """Run a part until it ends or steps on a mine."""
    _lay(JobStore, "claim", before=BEFORE_CLAIM)
    _lay(JobStore, "complete", before=BEFORE_COMPLETE, after=AFTER_COMPLETE)
    _lay(JobStore, "submit", after=AFTER_SUBMIT)
    sys.argv = sys.argv[1:]
    code = importlib.import_module(sys.argv[0]).main()
    logging.shutdown()
    os._exit(code or 0)


if __name__ == "__main__":
    main()
