"""The clients of the services that are measured, in several processes: one in Python cannot keep an H200 supplied."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import uvloop

from bench.gpu.cases import CLIP_FRAMES, FORKSERVER, PROMPT, Case, end_with_parent
from bench.load import Connection, UnexpectedAnswer, get, post
from shared.settings import Settings
from sightline.receiver import Received, Receiver

PROCESSES = 4
WAIT_S = 60


def server_clients() -> int:
    """Give what vLLM's own server is asked at a time for each engine: as many as a worker holds."""
    return Settings().in_flight


def service_clients() -> int:
    """Give what Sightline is asked at a time for each worker: more than it holds, so that jobs always wait for it."""
    return Settings().in_flight * 3 // 2


@dataclass(frozen=True)
class Answered:
    """One job: when it began and ended, on the clock of :func:`time.time`, and what the service said about it."""

    began_s: float
    ended_s: float
    tokens: int
    timings_ms: dict[str, float]


class Client(Protocol):
    """Asks a service; made in one process, used in others."""

    port: int

    def __enter__(self) -> Self:
        """Get ready to hear of ends."""

    def __exit__(self, *_: object) -> None:
        """Stop."""

    def request(self, case: Case, file: Path) -> bytes:
        """Write the request for a file."""

    async def ask(self, connection: Connection, request: bytes) -> tuple[int, dict[str, float]]:
        """Ask, and wait for the output; gives its tokens and timings."""


def ask_all(client: Client, case: Case, files: Sequence[Path], at_a_time: int, *, may_fail: bool = False) -> list[Answered]:
    """Ask for each file once, so many at a time.

    Args:
        client: whom.
        case: for what.
        files: the pictures or clips.
        at_a_time: requests under way.
        may_fail: those that were not answered are left out of what is given.

    Raises:
        UnexpectedAnswer: the service refused one.
    """
    if at_a_time == 1:
        return _run(client, case, files, 1, may_fail)
    parts = [files[n::PROCESSES] for n in range(PROCESSES)]
    with ProcessPoolExecutor(PROCESSES, FORKSERVER, end_with_parent) as pool:
        answers = [pool.submit(_run, client, case, part, at_a_time // PROCESSES, may_fail) for part in parts]
        return [answer for part in answers for answer in part.result()]


def _run(*given: Any) -> list[Answered]:
    return uvloop.run(_ask_all(*given))


async def _ask_all(client: Client, case: Case, files: Sequence[Path], at_a_time: int, may_fail: bool) -> list[Answered]:  # noqa: FBT001  # from one place
    answered: list[Answered] = []
    with client:
        requests = iter([client.request(case, file) for file in files])

        async def work() -> None:
            for request in requests:
                began_s = time.time()
                try:
                    async with Connection(client.port) as connection:
                        tokens, timings_ms = await client.ask(connection, request)
                except (OSError, EOFError, ValueError, UnexpectedAnswer):
                    if not may_fail:
                        raise
                else:
                    answered.append(Answered(began_s, time.time(), tokens, timings_ms))

        await asyncio.gather(*(work() for _ in range(at_a_time)))
    return answered


def data_url(file: Path) -> str:
    """Give a file as a data-URL."""
    kind = "video/mp4" if file.suffix == ".mp4" else "image/jpeg"
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


class ChatClient:
    """Asks an OpenAI-style server, vLLM's own."""

    def __init__(self, port: int, model: str) -> None:
        """Remember whom to ask for what."""
        self.port, self._model = port, model

    def __enter__(self) -> Self:
        """See :class:`Client`."""
        return self

    def __exit__(self, *_: object) -> None:
        """See :class:`Client`."""

    def request(self, case: Case, file: Path) -> bytes:
        """See :class:`Client`."""
        kind = "video_url" if case.is_clips else "image_url"
        content = [{"type": kind, kind: {"url": data_url(file)}}, {"type": "text", "text": PROMPT}]
        own = {"model": self._model, "messages": [{"role": "user", "content": content}]}
        return post("/v1/chat/completions", own | {"temperature": 0, "max_tokens": case.tokens, "ignore_eos": True})

    async def ask(self, connection: Connection, request: bytes) -> tuple[int, dict[str, float]]:
        """See :class:`Client`."""
        return json.loads(await connection.ask(request))["usage"]["completion_tokens"], {}


class JobsClient:
    """Asks Sightline for jobs, by long-poll or for webhooks."""

    def __init__(self, port: int, secret: str = "") -> None:
        """Remember whom to ask; with a secret the ends of jobs come by webhook."""
        self.port, self._secret = port, secret
        self._receiver: Receiver | None = None

    def __enter__(self) -> Self:
        """See :class:`Client`."""
        loop = asyncio.get_running_loop()
        arrived = self._arrived = defaultdict[str, asyncio.Future[dict[str, Any]]](loop.create_future)

        def count_delivery(delivery: Received | None) -> None:
            if delivery:
                loop.call_soon_threadsafe(lambda: arrived[delivery.job["id"]].set_result(delivery.job))

        if self._secret:
            self._receiver = Receiver(self._secret, on_delivery=count_delivery)
            self._receiver.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """See :class:`Client`."""
        if self._receiver:
            self._receiver.__exit__(None, None, None)

    def request(self, case: Case, file: Path) -> bytes:
        """See :class:`Client`."""
        media = {"type": "image", "image": data_url(file)}
        if case.is_clips:
            media = {"type": "video", "video": data_url(file), "nframes": CLIP_FRAMES}
        messages = [{"role": "user", "content": [media, {"type": "text", "text": PROMPT}]}]
        sampling = {"temperature": 0, "top_p": 1, "repetition_penalty": 1, "max_tokens": case.tokens}
        sampling["repetition_detection"] = False  # what dummy weights say may well repeat itself
        body: dict[str, Any] = {"messages": messages, "sampling": sampling}
        if self._receiver:
            return post("/v1/jobs", body | {"webhook": {"url": self._receiver.url}})
        return post("/v1/jobs", body, f"prefer: wait={WAIT_S}\r\n")

    async def ask(self, connection: Connection, request: bytes) -> tuple[int, dict[str, float]]:
        """See :class:`Client`."""
        asked_at = time.time()
        job = json.loads(await connection.ask(request))
        if self._receiver:
            job = await self._arrived[job["id"]]
        while job["status"] in {"queued", "running"}:
            job = json.loads(await connection.ask(get(f"/v1/jobs/{job['id']}?wait={WAIT_S}")))
        assert job["status"] == "succeeded", job  # noqa: S101  # a failed job would make it look fast
        return job["output"]["usage"]["output_tokens"], job["output"]["timings_ms"] | around(job, asked_at, time.time())


def around(job: dict[str, Any], asked_at: float, heard_at: float) -> dict[str, float]:
    """Give the milliseconds before a job was in the queue, of its run with all that is written, and until its end was heard."""
    steps = {
        "submit": (asked_at, job["created_at"]),
        "run": (job["started_at"], job["finished_at"]),
        "hear": (job["finished_at"], heard_at),
    }
    return {name: round(1000 * (end - begin), 1) for name, (begin, end) in steps.items()}
