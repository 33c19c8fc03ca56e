"""``python -m tests.hostile``: make every hostile file, decode it, and print file, code, milliseconds and peak memory.

Exits 1 where a file ends in no code, takes more than the limit of time, or its child more memory than it may: 300 MB for a
picture, 1 GB for a video. Then the files are sent again, four at a time, with good pictures beside them, none of which may
fail.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from shared.blobs import Blobs
from shared.settings import Settings
from tests.double import DoubleEngine
from tests.hostile.trial import Hostile, Result, judge_beside_good, make, trial
from tests.media import BLUE, clip, picture
from worker.media.loader import MediaLoader

MOST_MB = {"image": 300, "video": 1000}


async def run(settings: Settings, folder: Path) -> bool:
    """Print the table; says whether all is well."""
    target = folder / "secret.mp4"
    target.write_bytes(clip([255] * 10))
    blobs = Blobs(str(folder / "blobs"))
    results: list[Result] = []
    async with trial(settings, blobs) as one:
        for hostile in make(target, whole=True):
            result = await one.judge(hostile)
            results.append(Result(Hostile(hostile.kind, hostile.name, b""), result.code, result.ms, result.peak_mb))
            print(
                f"{hostile.name:<50.50} {len(hostile.data):>10} {result.code:<18} {result.ms:>6} {result.peak_mb:>5}",
                flush=True,
            )
    async with MediaLoader(settings.model_copy(update={"decode_processes": 4}), blobs, DoubleEngine(settings).limits) as loader:
        sent, failed = await judge_beside_good(loader, make(target, whole=False), picture(BLUE), at_a_time=3)
    limit_ms = (settings.decode_timeout_s + 5) * 1000
    bad = [r for r in results if r.code.startswith("!") or r.ms > limit_ms or r.peak_mb > MOST_MB[r.hostile.kind]]
    for kind, most in MOST_MB.items():
        of_kind = [r for r in results if r.hostile.kind == kind]
        peak, slowest = max(r.peak_mb for r in of_kind), max(r.ms for r in of_kind)
        print(f"{kind}: {len(of_kind)} files, peak {peak} of {most} MB, slowest {slowest} ms")
    print(f"{len(results)} files, {len(bad)} beyond their limits {[r.hostile.name for r in bad]}")
    print(f"{failed} of {sent} good ones beside them failed")
    return not bad and not failed


def main() -> int:
    """Run the table; gives the exit code."""
    parser = argparse.ArgumentParser(prog="tests.hostile", description=__doc__)
    parser.add_argument("--decode-timeout-s", type=float, default=10.0)
    arguments = parser.parse_args()
    settings = Settings(decode_timeout_s=arguments.decode_timeout_s)
    with tempfile.TemporaryDirectory() as folder:
        return 0 if asyncio.run(run(settings, Path(folder))) else 1


if __name__ == "__main__":
    sys.exit(main())
