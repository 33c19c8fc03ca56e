"""``python -m tests.chaos --plan sentinel``: primaries are killed and stopped under load; no job that got its 202 may be lost.

A primary, two replicas and three sentinels, all parts as processes, ``SIGHTLINE_REDIS_DURABILITY=replica``. While a replica is
held back it stands still for most of the time, so that it lags behind.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from sightline.stack import Stack
from tests.chaos.trial import say
from tests.media import data_url, picture
from tests.replicated import Replicated

KILLS, KILLS_HELD_BACK, STOPS = 15, 5, 10
CLIENTS, PAUSE_S = 4, 0.2
CALM_S = 3.0  #: of load between two faults
WAIT_S = 120.0  #: nobody waits longer for a 202 after a fault
END_S = 180.0  #: what is queued has so long to end
HOLD_S, LET_S = 0.4, 0.1
JOB = {"prompt": "请用中文描述一下这张图片", "images": [data_url(picture())]}


@dataclass
class Load:
    """What the clients were told."""

    accepted: dict[str, float] = field(default_factory=dict)  #: id → when its 202 came
    refusals: Counter[str] = field(default_factory=Counter)
    replaced: list[str] = field(default_factory=list)  #: ids that a 503 named, and for which the repeat got another one
    is_over: bool = False

    async def submit_on(self, http: httpx.AsyncClient) -> None:
        """Submit jobs one after the other, each again and again with its key until it is accepted."""
        while not self.is_over:
            headers, named = {"idempotency-key": uuid4().hex}, set[str]()
            while not self.is_over:
                answer = await self._ask(http, headers)
                if answer and (ident := answer.json().get("id")):
                    named.add(ident)
                if answer and answer.status_code == HTTPStatus.ACCEPTED:
                    self.accepted[answer.json()["id"]] = time.monotonic()
                    self.replaced += named - {answer.json()["id"]}
                    break
                await asyncio.sleep(PAUSE_S)
            await asyncio.sleep(PAUSE_S)

    async def _ask(self, http: httpx.AsyncClient, headers: dict[str, str]) -> httpx.Response | None:
        try:
            answer = await http.post("/v1/jobs", json=JOB, headers=headers)
        except httpx.TransportError as error:
            self.refusals[type(error).__name__] += 1
            return None
        if not answer.is_success:
            self.refusals[f"{answer.status_code} {answer.json()['detail'][:60]}"] += 1
        return answer

    async def gap_s(self, since_s: float) -> float:
        """Wait for the next 202 of a job that was submitted after a fault; gives how long that took."""
        until_s = since_s + WAIT_S
        while time.monotonic() < until_s:
            if later := [at for at in self.accepted.values() if at > since_s + 0.5]:
                return min(later) - since_s
            await asyncio.sleep(0.05)
        return WAIT_S


@dataclass
class Trial:
    """One run."""

    servers: Replicated
    load: Load
    gaps_s: dict[str, list[float]] = field(default_factory=lambda: {"kill": [], "kill_held_back": [], "stop": []})

    async def kill(self, kind: str) -> None:
        """Kill the primary, and start it again once another one has taken over."""
        primary = await asyncio.to_thread(self.servers.wait_whole)
        at_s = time.monotonic()
        self.servers.kill(primary)
        await self._taken_over(primary)
        self.gaps_s[kind].append(await self.load.gap_s(at_s))
        self.servers.start(primary)

    async def stop(self) -> None:
        """Have the primary stand still until another one has taken over, and then go on as if nothing had been."""
        primary = await asyncio.to_thread(self.servers.wait_whole)
        at_s = time.monotonic()
        self.servers.stop(primary)
        try:
            await self._taken_over(primary)
        finally:
            self.servers.go_on(primary)
        self.gaps_s["stop"].append(await self.load.gap_s(at_s))

    async def _taken_over(self, before: int) -> None:
        while (await asyncio.to_thread(self.servers.primary)) in {before, None}:  # noqa: ASYNC110  # nobody tells a trial
            await asyncio.sleep(0.1)

    @asynccontextmanager
    async def held_back(self) -> AsyncIterator[None]:
        """Let one replica run for a fifth of the time only."""
        primary = await asyncio.to_thread(self.servers.wait_whole)
        slow = next(port for port in self.servers.servers if port != primary)

        async def hold() -> None:
            while True:
                self.servers.stop(slow)
                await asyncio.sleep(HOLD_S)
                self.servers.go_on(slow)
                await asyncio.sleep(LET_S)

        holding = asyncio.create_task(hold())
        try:
            await asyncio.sleep(2)
            yield
        finally:
            holding.cancel()
            with suppress(asyncio.CancelledError):
                await holding
            self.servers.go_on(slow)


def run_failovers(folder: Path, *, scale: float = 1.0) -> dict[str, Any]:
    """Play all faults; gives the figures.

    Args:
        folder: for data and logs.
        scale: of the number of faults.
    """
    with Replicated(folder / "servers") as servers:
        settings = {
            "SIGHTLINE_ENGINE": "tests.double:DoubleEngine",
            "SIGHTLINE_REDIS_DURABILITY": "replica",
            "SIGHTLINE_MIN_FREE_BYTES": "0",
            "SIGHTLINE_DECODE_PROCESSES": "1",
        }
        os.environ["SIGHTLINE_REDIS_URL"] = servers.url  # so that the stack brings none
        try:
            with Stack(folder / "stack", settings=settings, workers=2) as stack:
                stack.wait_ready()
                return asyncio.run(_play(servers, stack.url, scale))
        finally:
            del os.environ["SIGHTLINE_REDIS_URL"]


async def _play(servers: Replicated, url: str, scale: float) -> dict[str, Any]:
    load = Load()
    trial = Trial(servers, load)
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        clients = [asyncio.create_task(load.submit_on(http)) for _ in range(CLIENTS)]
        plan = [("kill", KILLS), ("stop", STOPS), ("kill_held_back", KILLS_HELD_BACK)]
        for kind, count in plan:
            for n in range(max(1, round(count * scale))):
                await asyncio.sleep(CALM_S)
                if kind == "stop":
                    await trial.stop()
                elif kind == "kill":
                    await trial.kill(kind)
                else:
                    async with trial.held_back():
                        await trial.kill(kind)
                say(f"{kind} {n + 1}: {trial.gaps_s[kind][-1]:.1f} s without a 202; {len(load.accepted)} accepted")
        load.is_over = True
        await asyncio.gather(*clients)
        await asyncio.to_thread(servers.wait_whole)
        ended = await _ends(http, list(load.accepted))
        twice = [ident for ident in load.replaced if (await http.get(f"/v1/jobs/{ident}")).is_success]
    return {
        "accepted": len(load.accepted),
        "lost": ended["lost"],
        "ended": dict(ended),
        "lost_with_503": len(load.replaced) - len(twice),
        "accepted_twice": len(twice),
        "refusals": dict(load.refusals.most_common(8)),
        "gaps_s": {kind: _spread(gaps) for kind, gaps in trial.gaps_s.items()},
    }


async def _ends(http: httpx.AsyncClient, ids: list[str]) -> Counter[str]:
    """Wait until all has ended; gives how."""
    until_s = time.monotonic() + END_S
    while time.monotonic() < until_s:
        if not (await http.get("/v1/queue")).json().get("load"):
            break
        await asyncio.sleep(0.5)
    ended = Counter[str](lost=0)
    for ident in ids:
        answer = await http.get(f"/v1/jobs/{ident}")
        ended[answer.json()["status"] if answer.is_success else "lost"] += 1
    return ended


def _spread(gaps_s: list[float]) -> dict[str, float]:
    least, median, most = min(gaps_s), statistics.median(gaps_s), max(gaps_s)
    return {"n": len(gaps_s), "least": round(least, 1), "median": round(median, 1), "most": round(most, 1)}


def misses(figures: dict[str, Any]) -> list[str]:
    """Say which promises did not hold."""
    wrong = [f"{figures['lost']} of {figures['accepted']} jobs with a 202 are lost"] if figures["lost"] else []
    if figures["accepted_twice"]:
        wrong.append(f"{figures['accepted_twice']} requests, repeated with their key, became two jobs")
    if unfinished := sum(figures["ended"].get(state, 0) for state in ("queued", "running")):
        wrong.append(f"{unfinished} jobs have not ended")
    wrong += [f"no 202 within {WAIT_S:g} s after a {kind}" for kind, gap in figures["gaps_s"].items() if gap["most"] >= WAIT_S]
    if failed := figures["ended"].get("failed", 0):
        wrong.append(f"{failed} jobs failed")
    return wrong
