"""``python -m tests.chaos.elsewhere FOLDER MODULE …``: become a module of another checkout, as that version's process."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Go there and run it."""
    folder, *module = sys.argv[1:]
    os.chdir(folder)
    os.environ["PYTHONPATH"] = folder
    os.execv(sys.executable, [sys.executable, "-m", *module])  # our own modules


if __name__ == "__main__":
    main()
