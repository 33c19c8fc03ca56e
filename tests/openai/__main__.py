"""``python -m tests.openai [batch midstream overtake slow_hosts schema tools parity]``: what the OpenAI surface promises.

Prints a line of JSON for each trial; the exit code is 1 when a promise was broken. Each takes one to three minutes; ``schema``,
``tools`` and ``parity`` load the real vLLM with the demo model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path

from tests.openai.batch import batch
from tests.openai.midstream import midstream
from tests.openai.overtake import overtake
from tests.openai.parity import parity
from tests.openai.runners import runners
from tests.openai.schema import schema
from tests.openai.slow_hosts import slow_hosts
from tests.openai.tools import tools

TRIALS = {
    "batch": (batch, runners),
    "midstream": (midstream,),
    "overtake": (overtake,),
    "slow_hosts": (slow_hosts,),
    "schema": (schema,),
    "tools": (tools,),
    "parity": (parity,),
}


def main() -> int:
    """Run the named trials, all where none is named; gives the exit code."""
    parser = argparse.ArgumentParser(prog="openai", description=__doc__)
    parser.add_argument("trials", nargs="*", choices=[*TRIALS, []], help="left out: all")
    parser.add_argument("--keep", type=Path, help="an empty folder for logs and data, which stays")
    given, broken = parser.parse_args(), 0
    for plan in [plan for name in given.trials or TRIALS for plan in TRIALS[name]]:
        name = plan.__name__
        with tempfile.TemporaryDirectory(prefix="sightline-openai-") as own:
            folder = given.keep / name if given.keep else Path(own)
            folder.mkdir(parents=True, exist_ok=True)
            figures = asyncio.run(plan(folder))
        load = round(os.getloadavg()[0], 1)
        sys.stdout.write(json.dumps({"trial": name, "load": load, **figures}, ensure_ascii=False) + "\n")
        sys.stdout.flush()
        broken += not figures["ok"]
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
