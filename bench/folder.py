"""A folder of thousands, described while its client, a worker and the gateway are killed: ``python -m bench.folder``.

The engine is the tests' double, whose rate is known: slots divided by the seconds of a job. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from sightline.client import Client
from sightline.stack import Stack
from tests.media import picture

SLOTS, JOB_S = 8, 0.4
ODD = ["一只猫.png", "with blank.png", "new\nline.png", "😀.png", os.fsdecode(b"\xb9\xcf.png"), 'q"uote.png']


def make_tree(root: Path, count: int, distinct: int) -> set[str]:
    """Lay out pictures of few bytes, so many of them distinct, and what folders hold besides; gives the paths."""
    base = picture((10, 20, 30), size=(32, 24), image_format="JPEG")
    rng = random.Random(7)
    paths = set[str]()
    for n in range(count - 5):
        folder = root / f"文件夹 {n % 97}" / str(n % 11)
        folder.mkdir(parents=True, exist_ok=True)
        name = "same.jpg" if n < 97 * 11 and n % 3 == 0 else f"{n} {ODD[n % len(ODD)]}" if n % 20 == 0 else f"{n}.jpg"
        content = n if n < distinct else rng.randrange(distinct)
        (folder / name).write_bytes(base + content.to_bytes(4, "big"))  # what follows a JPEG's end is not looked at
        paths.add(str((folder / name).relative_to(root)))
    (root / "empty.jpg").touch()
    (root / "broken.jpg").write_bytes(b"no picture")
    os.mkfifo(root / "pipe.jpg")
    (root / "link.jpg").symlink_to(root / min(paths))
    (root / "dangling.jpg").symlink_to(root / "nowhere.jpg")
    return paths | {"empty.jpg", "broken.jpg", "pipe.jpg", "link.jpg", "dangling.jpg"}


def cpu_s(pid: int) -> float:
    """Say how much of the processor a process and those below it have had."""
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        for process in (parent := psutil.Process(pid), *parent.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])  # its own, and of children that have ended
    return total


class Describing:
    """A run of ``sightline describe``, and the most memory that it was seen to have."""

    def __init__(self, tree: Path, out: Path, url: str, prompt: str) -> None:
        """Start it."""
        command = [sys.executable, "-m", "sightline.cli", "describe", str(tree), "-r", "-o", str(out), "--url", url]
        self.errors = out.with_suffix(".log").open("ab")
        self.process = subprocess.Popen([*command, "--prompt", prompt, "--json"], stderr=self.errors)  # noqa: S603  # ours
        self.out, self.peak_mb, self.cpu_s = out, 0.0, 0.0
        self.first: tuple[float, int] | None = None  #: when rows were first seen to be new, and how many there were
        self._had = out.read_bytes().count(b"\n") if out.exists() else 0

    def until(self, rows: int, done: Callable[[], bool] = lambda: False) -> int:
        """Wait for so many rows, or the end; gives the number of rows."""
        count, position = 0, 0
        while True:
            ended = self.process.poll() is not None
            if not ended:
                status = Path(f"/proc/{self.process.pid}/status").read_text()
                peak = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
                self.peak_mb = max(self.peak_mb, int(peak[0]) / 1024 if peak else 0)
                self.cpu_s = max(self.cpu_s, cpu_s(self.process.pid))
            if self.out.exists():
                with self.out.open("rb") as file:
                    file.seek(position)
                    data = file.read()
                position, count = position + len(data), count + data.count(b"\n")
            if self.first is None and count > self._had:
                self.first = time.monotonic(), count
            if ended or count >= rows or done():
                return count
            time.sleep(0.2)


def run_trial(count: int, distinct: int, folder: Path, *, faults: bool, slots: int, job_s: float) -> dict[str, Any]:
    """Describe a tree under faults, then to its end, and compare what stands there with what should."""
    tree = folder / "tree"
    paths = make_tree(tree, count, distinct)
    settings = {
        "SIGHTLINE_ENGINE": "tests.double:DoubleEngine",
        "SIGHTLINE_MAX_NUM_SEQS": str(slots),
        "SIGHTLINE_DECODE_PROCESSES": "1",
        "SIGHTLINE_MIN_FREE_BYTES": "0",
        "SIGHTLINE_DRAIN_S": "1",
    }
    out, prompt = folder / "out.jsonl", f"!slow {job_s}"
    facts: dict[str, Any] = {"files": len(paths), "distinct": distinct, "ideal_per_s": slots / job_s}
    with Stack(folder / "parts", settings=settings) as stack:
        stack.wait_ready()
        if faults:
            first = Describing(tree, out, stack.url, prompt)
            first.until(count // 5)
            os.killpg(stack.processes["worker-0"].pid, signal.SIGKILL)
            stack.processes["worker-0"].wait()
            stack.respawn("worker-0")
            first.until(count * 7 // 20)
            stack.processes["gateway"].terminate()
            stack.processes["gateway"].wait()
            stack.respawn("gateway")
            facts["rows_at_kill"] = first.until(count // 2)
            first.process.kill()
            first.process.wait()
            facts["first_client_mb"] = round(first.peak_mb, 1)
        parts_s = {name: cpu_s(process.pid) for name, process in stack.processes.items()}
        began, before = time.monotonic(), out.read_bytes().count(b"\n") if out.exists() else 0
        second = Describing(tree, out, stack.url, prompt)
        second.until(sys.maxsize)
        seconds = time.monotonic() - began
        rows = [json.loads(line) for line in out.read_bytes().splitlines()]
        facts |= {"exit_code": second.process.returncode, "client_mb": round(second.peak_mb, 1), "seconds": round(seconds, 1)}
        jobs = {row["job"] for row in rows if "job" in row}
        facts["rows"], facts["rows_doubled"] = len(rows), len(rows) - len({row["path"] for row in rows})
        facts["rows_missing"] = len(paths - {row["path"] for row in rows})
        facts["failed"] = sorted(row["path"] for row in rows if row["status"] != "succeeded")
        ran = len({row["job"] for row in rows[before:] if "job" in row} - {row["job"] for row in rows[:before] if "job" in row})
        parts_s = {name: cpu_s(stack.processes[name].pid) - had for name, had in parts_s.items()} | {"client": second.cpu_s}
        facts["cpu_ms_a_job"] = {name: round(1000 * spent_s / ran, 2) for name, spent_s in parts_s.items()}
        facts["per_s"] = round(ran / seconds, 2)
        facts["share_of_ideal"] = round(ran / seconds * job_s / slots, 3)
        if second.first:  # without the client's start; copies of equal files took the engine no time
            first_s, had = second.first
            share = ran / max(1, len(rows) - before)
            facts["share_when_running"] = round((len(rows) - had) * share / (began + seconds - first_s) * job_s / slots, 3)
        with Client(stack.url) as client:
            sent = sum(1 for _ in client.jobs())
        facts["jobs_sent"], facts["sent_twice"] = sent, sent - len(jobs)
    return facts


def main() -> None:
    """Run the trial and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--distinct", type=int, help="left out: 95 %% of them")
    parser.add_argument("--no-faults", action="store_true")
    parser.add_argument("--slots", type=int, default=SLOTS)
    parser.add_argument("--job-s", type=float, default=JOB_S)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sightline-folder-"))
    distinct = args.distinct or args.files * 95 // 100
    try:
        facts = run_trial(args.files, distinct, folder, faults=not args.no_faults, slots=args.slots, job_s=args.job_s)
    finally:
        shutil.rmtree(folder)
    print(json.dumps(facts, ensure_ascii=False))


if __name__ == "__main__":
    main()
