"""A steady load of small pictures, each of its own colour, and what its clients are told and see.

The load is open: jobs arrive by a seeded Poisson process, whatever became of those before.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx

from shared.settings import DEFAULT_MODEL
from tests.chaos.history import Answer, History, Seen, Submit
from tests.media import data_url, picture

MODEL, OTHER_MODEL = DEFAULT_MODEL, "other-vl"
SIZE = (84, 56)  #: multiples of 28: the worker leaves the picture as it is
INSIST_S = 60.0  #: how long a client repeats a submit whose answer was lost
WAIT_S = 10
PAUSE_S = 0.7  #: before a client asks again


@dataclass(frozen=True)
class Wish:
    """One job that a client wants, and how that client behaves."""

    key: str
    at_s: float
    run_s: float
    colour: tuple[int, int, int]
    webhook: bool
    idempotent: bool  #: repeats a lost submit, with an Idempotency-Key; other clients try once
    cancel_after_s: float | None
    model: str | None  #: that it names; the double says which one answered
    looks_again_s: float | None  #: reads the job once more, this long after its end

    @property
    def prompt(self) -> str:
        """Orders the double to take its time, and names the job."""
        return f"!slow {self.run_s:.2f} {self.key} !model"

    @property
    def expected(self) -> str:
        """The only right output: what :class:`tests.double.DoubleEngine` says of these pixels."""
        red, green, blue = self.colour
        return f"1 x {SIZE[0]}x{SIZE[1]} #{red:02x}{green:02x}{blue:02x}; {self.prompt}".replace("!model", self.model or MODEL)

    def body(self, webhook_url: str) -> dict[str, Any]:
        """Give the body of POST /v1/jobs."""
        part = {"type": "image", "image": data_url(picture(self.colour, SIZE)), "min_pixels": SIZE[0] * SIZE[1]}
        content = [part, {"type": "text", "text": self.prompt}]
        named = {"model": self.model} if self.model else {}
        body: dict[str, Any] = {"messages": [{"role": "user", "content": content}], "metadata": {"key": self.key}} | named
        return body | ({"webhook": {"url": webhook_url}} if self.webhook else {})


def wishes(
    seed: int, *, rate: float, seconds: float, models: Sequence[str | None] = (None,), slow_s: float = 2.0
) -> list[Wish]:
    """Draw the load of a run, for each of the models in turn, with some jobs that take up to so long: the same for one seed."""
    rng, at_s, drawn = random.Random(seed), 0.0, list[Wish]()
    while (at_s := at_s + rng.expovariate(rate)) < seconds:
        n = len(drawn)
        mixed = (n * 2_654_435_761 + seed) % 2**24  # an odd factor: no two of 16 million colours are the same
        drawn.append(
            Wish(
                key=f"{seed}-{n}",
                at_s=at_s,
                run_s=rng.uniform(0.02, 0.2) if rng.random() < 0.85 else rng.uniform(0.5, slow_s),
                colour=(mixed >> 16, mixed >> 8 & 255, mixed & 255),
                webhook=rng.random() < 0.25,
                idempotent=rng.random() < 0.8,
                cancel_after_s=rng.uniform(0, 1) if rng.random() < 0.06 else None,
                model=models[n % len(models)],
                looks_again_s=rng.uniform(1, 10) if rng.random() < 0.3 else None,
            )
        )
    return drawn


class Load:
    """Plays the clients against a gateway, and writes the history."""

    def __init__(self, url: str, webhook_url: str, history: History) -> None:
        self._webhook_url = webhook_url
        self._history = history
        limits = httpx.Limits(max_connections=400, max_keepalive_connections=100)
        self._http = httpx.AsyncClient(base_url=url, timeout=WAIT_S + 10, limits=limits, trust_env=False)
        self.recent: list[str] = []  #: ids of accepted jobs, newest last
        self.open: set[str] = set()  #: keys of accepted jobs whose end no client has seen yet
        self.unanswered = 0  #: requests that got no answer, or a 5xx

    async def play(self, wishes: list[Wish]) -> None:
        """Submit every wish at its time and follow it to its end; returns when the last is submitted."""
        began = asyncio.get_running_loop().time()
        self._clients = set[asyncio.Task[None]]()
        for wish in wishes:
            await asyncio.sleep(max(0.0, began + wish.at_s - asyncio.get_running_loop().time()))
            self._clients.add(asyncio.create_task(self._live(wish)))

    async def finish(self, *, within_s: float) -> None:
        """Wait until every client has seen its job's end, but no longer than this."""
        _, left = await asyncio.wait(self._clients, timeout=within_s)
        for client in left:
            client.cancel()
        for done in await asyncio.gather(*self._clients, return_exceptions=True):
            if isinstance(done, Exception):
                raise done

    async def read_all(self) -> None:
        """Page through all the jobs that there are: the final reading."""
        after: dict[str, str] = {}
        while True:
            answer = await self._request("GET", "/v1/jobs", params={"limit": 100, **after})
            if answer is None or answer.is_server_error:
                await asyncio.sleep(0.5)
                continue
            answer.raise_for_status()
            page = answer.json()
            self._history.last |= {job["id"]: _seen(job) for job in page["data"]}
            if not page["has_more"]:
                return
            after = {"after": page["last_id"]}

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _live(self, wish: Wish) -> None:
        answer, job_id = Answer.UNKNOWN, None
        try:
            answer, job_id = await self._submit(wish)
        finally:
            cancel = wish.cancel_after_s is not None
            self._history.submits.append(Submit(wish.key, wish.expected, answer, job_id, wish.webhook, cancel))
        if job_id is None:
            return
        self.recent.append(job_id)
        self.open.add(job_id)
        if wish.cancel_after_s is not None:
            await asyncio.sleep(wish.cancel_after_s)
            await self._read("POST", f"/v1/jobs/{job_id}/cancel", job_id)
        while not await self._read("GET", f"/v1/jobs/{job_id}", job_id, params={"wait": WAIT_S}):  # noqa: ASYNC110
            await asyncio.sleep(PAUSE_S)
        self.open.discard(job_id)
        if wish.looks_again_s is not None:
            await asyncio.sleep(wish.looks_again_s)
            await self._read("GET", f"/v1/jobs/{job_id}", job_id)

    async def _submit(self, wish: Wish) -> tuple[Answer, str | None]:
        body, until = wish.body(self._webhook_url), time.monotonic() + INSIST_S
        headers = {"idempotency-key": wish.key} if wish.idempotent else {}
        while True:
            answer = await self._request("POST", "/v1/jobs", json=body, headers=headers)
            if answer is not None and answer.is_success:
                job = answer.json()
                self._history.seen.append(_seen(job))
                return Answer.ACCEPTED, job["id"]
            if answer is not None and answer.is_client_error:
                return Answer.REFUSED, None
            if not wish.idempotent or time.monotonic() > until:
                return Answer.UNKNOWN, None
            await asyncio.sleep(PAUSE_S)

    async def _read(self, method: str, path: str, job_id: str, **options: Any) -> bool:
        """Note what a request shows of a job; gives whether the job has ended."""
        answer = await self._request(method, path, **options)
        if answer is None or answer.status_code == httpx.codes.CONFLICT:
            return False
        if answer.status_code in {httpx.codes.NOT_FOUND, httpx.codes.GONE}:
            self._history.seen.append(Seen(job_id, time.time(), "missing"))
            return False
        seen = _seen(answer.json())
        self._history.seen.append(seen)
        return seen.end is not None

    async def _request(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        with suppress(httpx.TransportError):
            answer = await self._http.request(method, path, **options)
            if not answer.is_server_error:
                return answer
        self.unanswered += 1
        return None


def _seen(job: dict[str, Any]) -> Seen:
    return Seen(
        job_id=job["id"],
        at_s=time.time(),
        status=job["status"],
        text=(job["output"] or {}).get("text"),
        code=(job["error"] or {}).get("code"),
        finished_at=job["finished_at"],
        attempt=job["attempt"],
        key=str(job["metadata"].get("key", "")),
    )
