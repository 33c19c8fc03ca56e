"""``python -m tests.webhooks [kills crowd hostile rotation streams dropping]``: what webhooks promise, put to the proof.

Prints a line of JSON for each trial; the exit code is 1 when a promise was broken. All of them take about ten minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from tests.webhooks.trials import TRIALS


def main() -> int:
    """Run the named trials, all where none is named; gives the exit code."""
    parser = argparse.ArgumentParser(prog="webhooks", description=__doc__)
    parser.add_argument("trials", nargs="*", choices=[*TRIALS, []], help="left out: all")
    broken = 0
    for name in parser.parse_args().trials or TRIALS:
        with tempfile.TemporaryDirectory(prefix="sightline-webhooks-") as folder:
            figures = asyncio.run(TRIALS[name](Path(folder)))
        sys.stdout.write(json.dumps({"trial": name, **figures}) + "\n")
        sys.stdout.flush()
        broken += not figures["ok"]
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
