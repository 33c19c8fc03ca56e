"""``python -m tests.chaos --plan upgrade --other FOLDER``: two versions side by side on one Redis, under load, there and back.

All parts start on the other version and are rolled one after the other to this one, then back; in between both are at work.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path
from typing import Any

from shared.settings import ROOT
from shared.store.key_names import PREFIX
from sightline.receiver import Receiver
from sightline.stack import Stack
from tests.chaos import report
from tests.chaos.checker import check
from tests.chaos.history import History, Told
from tests.chaos.load import Load, wishes
from tests.chaos.rig import Rig
from tests.chaos.trial import say

SETTINGS = {
    "SIGHTLINE_ENGINE": "tests.double:DoubleEngine",
    "SIGHTLINE_ALLOW_NETWORKS": "127.0.0.0/8",
    "SIGHTLINE_DECODE_PROCESSES": "1",
    "SIGHTLINE_MIN_FREE_BYTES": "0",
    "SIGHTLINE_MAX_NUM_SEQS": "8",
    "SIGHTLINE_DRAIN_S": "1",  # shorter than the slow jobs: some are handed from one version to the other
}
PARTS = {"gateway": ("api.main",), "batches": ("api.batches.main",), "webhooks": ("worker.main", "webhooks")}
WORKERS = 2
SIDE_BY_SIDE_S = 3.0  #: of load between two parts' turns
SETTLE_S = 60.0


class TwoVersions(Stack):
    """Starts parts in the checkout that ``root`` names at that time; Redis is always this one's."""

    root: Path = ROOT

    def spawn(self, name: str, module: str, *args: str) -> subprocess.Popen[bytes]:
        """Start one part."""
        if name == "redis":
            return super().spawn(name, module, *args)
        return super().spawn(name, "tests.chaos.elsewhere", str(self.root), module, *args)


def run_upgrade(folder: Path, other: Path, *, rate: float, seed: int) -> dict[str, Any]:
    """Roll there and back; gives the figures.

    Args:
        folder: for data and logs.
        other: the checkout of another version with the same version of the data.
        rate: jobs a second.
        seed: of the load.
    """
    stack, history = TwoVersions(folder, settings=SETTINGS, workers=WORKERS), History()
    stack.root = other.resolve()
    with Receiver(stack.secret) as receiver, stack:
        stack.wait_ready()
        facts = asyncio.run(_play(stack, receiver, history, rate, seed))
    return report.report(history, check(history), {**facts, "versions_of": [_commit(other), _commit(ROOT)]})


def _commit(folder: Path) -> str:
    git = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


async def _play(stack: TwoVersions, receiver: Receiver, history: History, rate: float, seed: int) -> dict[str, Any]:
    rig = Rig(stack, [f"worker-{n}" for n in range(WORKERS)])
    load, other = Load(stack.url, receiver.url, history), stack.root
    seconds = 2 * (len(PARTS) + WORKERS) * (SIDE_BY_SIDE_S + 4)
    playing = asyncio.create_task(load.play(wishes(seed, rate=rate, seconds=seconds)))
    turns, handed_on = 0, 0
    for root in (ROOT, other):
        for name in (*PARTS, *rig.workers):
            await asyncio.sleep(SIDE_BY_SIDE_S)
            handed_on += len(await rig.running()) if name in rig.workers else 0
            await _roll(stack, rig, name, root)
            turns += 1
            say(f"{name} runs in {root}; {len(load.recent)} accepted, {await rig.waiting()} wait")
    await playing
    await finish(rig, load, receiver, history)
    return {"turns": turns, "running_at_turns_of_workers": handed_on, "requests_unanswered": load.unanswered}


async def _roll(stack: TwoVersions, rig: Rig, name: str, root: Path) -> None:
    """Stop a part in order, and start it in another checkout."""
    stack.processes[name].terminate()
    code = await rig.gone(name)
    if code:
        rig.unplanned.append(name)
    stack.root = root
    process = stack.spawn(name, *PARTS.get(name, ("worker.main", "jobs")))
    await rig.up(name)
    async with asyncio.timeout(SETTLE_S):
        while not _runs_in(process.pid, root):  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.1)


def _runs_in(pid: int, root: Path) -> bool:
    return Path(f"/proc/{pid}/cwd").readlink() == root


async def finish(rig: Rig, load: Load, receiver: Receiver, history: History) -> None:
    """Wait until all has ended and is delivered; write what clients see then."""
    await load.finish(within_s=SETTLE_S)
    until = time.monotonic() + SETTLE_S
    while time.monotonic() < until and (  # noqa: ASYNC110  # nobody tells
        await rig.waiting() or await rig.running() or await rig.insist(rig.redis.zcard, f"{PREFIX}due")
    ):
        await asyncio.sleep(0.2)
    history.told = [Told(told.id, told.job["id"], told.type.removeprefix("job.")) for told in receiver.received]
    await load.read_all()
    history.leases = await rig.running()
    await load.close()
    await rig.redis.aclose()


def misses(figures: dict[str, Any]) -> list[str]:
    """Say which laws did not hold."""
    return report.misses(figures, strict=False)
