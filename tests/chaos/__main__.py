"""``python -m tests.chaos``: break the system on purpose, and say whether its promises held.

The last line on stdout is JSON; the exit code is 1 when a law was broken. ``--baseline`` does the same to plain Celery.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.chaos import backup, clocked, failovers, leavers, upgrade
from tests.chaos.checker import check
from tests.chaos.faults import PLANS
from tests.chaos.report import misses, report
from tests.chaos.trial import Trial, say

#: Jobs a second. Two cores run everything here, this load and a worker's start every four seconds included: at 8 a second
#: a backlog grew whenever something else used the machine, and recovery measured the backlog.
RATE = 5.0
OWN = ("backup", "leavers", "sentinel", "upgrade")  #: plans with a load and laws of their own
SENTINEL_MINUTES = 10.0  #: what the plan of failovers takes


def _leave(folder: Path, *, keep: bool) -> None:
    if keep:
        say(f"logs and history kept in {folder}")
    else:
        shutil.rmtree(folder)


def _own(args: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Run a plan that has a load and laws of its own; gives the figures, and what did not hold."""
    if args.plan == "leavers":
        figures = leavers.run_leavers(folder, leavers=leavers.LEAVERS)
        return figures, leavers.misses(figures)
    if args.plan == "sentinel":
        figures = failovers.run_failovers(folder, scale=args.minutes / SENTINEL_MINUTES if args.minutes else 1.0)
        return figures, failovers.misses(figures)
    if args.plan == "backup":
        figures = backup.run_backup(folder, rate=args.rate, seed=args.seed)
        return figures, backup.misses(figures)
    figures = upgrade.run_upgrade(folder, args.other, rate=args.rate, seed=args.seed)
    return figures, upgrade.misses(figures)


def _end(plan: str, figures: dict[str, Any], wrong: list[str], folder: Path, *, keep: bool) -> int:
    for line in wrong:
        say(f"BROKEN {line}")
    _leave(folder, keep=bool(wrong) or keep)
    sys.stdout.write(json.dumps({"plan": plan, **figures}) + "\n")
    return 1 if wrong else 0


def main() -> int:
    """Run a plan; gives the exit code."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--plan", choices=sorted({*PLANS, *OWN}), default="quick")
    parser.add_argument("--minutes", type=float, help="deal the plan's blows in another time, and as many fewer or more")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=RATE, help="jobs a second")
    parser.add_argument("--workers", type=int, help="engine workers; left out: 2 to be rolled, else 4")
    parser.add_argument("--lease", type=float, help="seconds; left out: the default of 15 for the full plan, 3 for short ones")
    parser.add_argument("--baseline", action="store_true", help="plain Celery with every safe setting instead")
    parser.add_argument("--other", type=Path, help="checkout of the other version, for the plan upgrade")
    parser.add_argument(
        "--prometheus", action="store_true", help="have a real one scrape all parts, and hold it against the clients"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder with the logs")
    args = parser.parse_args()
    if args.plan == "upgrade" and not args.other:
        parser.error("the plan upgrade needs --other, a checkout of another version: git worktree add --detach FOLDER COMMIT")
    if args.plan in OWN:
        folder = Path(tempfile.mkdtemp(prefix="sightline-chaos-"))
        return _end(args.plan, *_own(args, folder), folder, keep=args.keep)
    full = args.plan == "full"
    workers = args.workers or (2 if args.plan == "rolling" else 4)
    seconds, counts = PLANS[args.plan]
    if args.minutes:
        counts = {kind: max(1, round(n * args.minutes * 60 / seconds)) for kind, n in counts.items()}
        seconds = args.minutes * 60
    folder = Path(tempfile.mkdtemp(prefix="sightline-chaos-"))
    say(f"logs in {folder / 'logs'}")
    lease_s = args.lease or (15.0 if full else 3.0)
    if args.baseline:
        from tests.chaos.baseline import run_baseline

        figures = run_baseline(
            folder, counts, seconds=seconds, seed=args.seed, rate=args.rate, workers=workers, asleep_s=lease_s
        )
        _leave(folder, keep=args.keep)
        sys.stdout.write(json.dumps({"plan": args.plan, **figures}) + "\n")
        return 0
    if args.plan == "clock" and clocked.library() is None:
        parser.error("the plan clock needs libfaketime: apt-get install faketime")
    trial = Trial(
        folder, seed=args.seed, workers=workers, rate=args.rate, lease_s=lease_s, plan=args.plan, is_scraped=args.prometheus
    )
    trial.run(counts, seconds=seconds)
    (folder / "history.json").write_text(json.dumps(dataclasses.asdict(trial.history), indent=1))
    figures = report(trial.history, check(trial.history), trial.facts)
    return _end(args.plan, figures, misses(figures, strict=full), folder, keep=args.keep)


if __name__ == "__main__":
    sys.exit(main())
