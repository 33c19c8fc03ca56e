"""``python -m tests.chaos.clocked PORT FOLDER``: the embedded Valkey with a clock that a file sets, by libfaketime."""

from __future__ import annotations

import os
from pathlib import Path

from sightline import embedded

FILE = "CHAOS_CLOCK"  #: the variable that names the file: seconds that the clock is ahead, such as "+60"


def library() -> Path | None:
    """Find libfaketime; Debian's package is called so."""
    return next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)


def main() -> None:
    """Serve until SIGTERM. Only the server itself, which is started from here, lives by that clock."""
    os.environ |= {
        "LD_PRELOAD": str(library()),
        "FAKETIME_TIMESTAMP_FILE": os.environ[FILE],
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    embedded.main()


if __name__ == "__main__":
    main()
