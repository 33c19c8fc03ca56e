"""A gateway that stops tells whoever waits to ask again, and the client does; a worker that stops early keeps no job."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from shared.jobs import JobRequest
from shared.settings import ROOT, Settings
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from sightline.client import Client, ServiceError
from tests.integration.conftest import Reply, Site, Worker, serving, until
from tests.integration.parts import variables
from tests.integration.served import served
from tests.media import data_url, picture

JOB = {"prompt": "!slow 60", "images": [data_url(picture())]}
CHAT = {"model": "qwen-vl", "messages": [{"role": "user", "content": "!slow 60"}]}


async def test_a_gateway_that_stops_tells_everybody_who_waits(settings: Settings, worker: Worker, store: JobStore) -> None:
    """A long poll got `500 text/plain`, and a job's events ended without a word."""
    async with serving(settings) as (client, process):
        job = (await client.post("/v1/jobs", json=JOB)).json()["id"]
        path = f"/v1/jobs/{job}"

        async def events(path: str) -> list[str]:
            async with client.stream("GET", path, headers={"last-event-id": "1"} if path != "/v1/events" else {}) as answer:
                return [line async for line in answer.aiter_lines()]

        waiting = [
            asyncio.create_task(client.get(path, params={"wait": 60})),
            asyncio.create_task(client.post("/v1/jobs", json=JOB, headers={"prefer": "wait=60"})),
            asyncio.create_task(client.post("/v1/chat/completions", json=CHAT)),
        ]
        streams = [asyncio.create_task(events(path)) for path in (f"{path}/events", "/v1/events")]
        await until(lambda: _is(worker.engine.running == 3))
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        answers = await asyncio.gather(*waiting)
        told = await asyncio.gather(*streams)
        process.wait(10)

    for answer in answers:
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["error"]["code"] == "restarting"
        assert answer.headers["x-request-id"].startswith("req_")
    for lines in told:
        last = lines.index("event: gateway.restarting")
        data = next(line for line in lines[last:] if line.startswith("data: "))
        assert json.loads(data.removeprefix("data: "))["error"]["code"] == "restarting"
        assert not any(line.startswith("id:") for line in lines[last:])  # a reader goes on after the last event it was told
    assert time.monotonic() - began < 4.5


async def test_a_request_that_is_nearly_done_is_answered(settings: Settings, worker: Worker) -> None:
    async with httpx.AsyncClient(timeout=30) as client:
        async with served(settings) as url:
            job = JOB | {"prompt": "!slow 0.3"}
            asked = asyncio.create_task(client.post(f"{url}/v1/jobs", json=job, headers={"prefer": "wait=60"}))
            await until(lambda: _is(worker.engine.running == 1))
        answer = await asked

    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")


async def test_the_client_asks_again(settings: Settings, worker: Worker) -> None:
    """Its gateway is restarted under a wait."""
    async with served(settings) as url:
        client = Client(url)
        job = (await asyncio.to_thread(client.submit, JOB | {"prompt": "!slow 1.5"}))["id"]
        waiting = asyncio.create_task(asyncio.to_thread(client.wait, job))
        await until(lambda: _is(worker.engine.running == 1))
    assert not waiting.done()
    async with served(settings, port=httpx.URL(url).port or 0):
        assert (await waiting)["status"] == "succeeded"
    client.__exit__(None, None, None)


async def test_the_client_submits_once(site: Site) -> None:
    """A gateway that is restarted may have taken the job before it said so."""
    restarting = Reply(503, b'{"error": {"code": "restarting", "message": "..."}}', {"retry-after": "0"})
    site.replies = [restarting, restarting, Reply(202, b'{"id": "job_1"}')]
    with Client(site.url) as client:
        assert await asyncio.to_thread(client.submit, {}) == {"id": "job_1"}
        site.replies = [restarting]
        with pytest.raises(ServiceError, match=r"\.\.\."):
            await asyncio.to_thread(client.request, "POST", "/v1/webhook_endpoints")

    assert len(site.asked) == 4
    assert len({asked.headers["idempotency-key"] for asked in site.asked[:3]}) == 1


async def _is(fact: bool) -> bool:  # noqa: FBT001
    return fact


#: A worker that is asked to leave when its first job runs, and Celery has not yet taken the signals.
EARLY = """
import os, signal, sys, time
from pathlib import Path
import worker.process

def late(settings):
    while not Path(sys.argv[1]).exists():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)

worker.process.may_be_controlled = late
sys.exit(worker.process.run())
"""


async def test_a_worker_that_leaves_before_celery_listens_hands_its_job_back(
    settings: Settings, store: JobStore, tmp_path: Path
) -> None:
    job_id, runs = new_id("job"), tmp_path / "runs"
    request = JobRequest.model_validate({"messages": [{"role": "user", "content": "!slow 600"}]})
    await store.submit(request, settings, owner="me", job_id=job_id)
    given = os.environ | variables(settings)
    leaving = subprocess.Popen([sys.executable, "-c", EARLY, str(runs)], cwd=ROOT, env=given)  # noqa: ASYNC220

    async def is_running() -> bool:
        return (await store.get(job_id)).status == "running"

    try:
        await until(is_running, timeout_s=60)
        runs.touch()
        assert await asyncio.to_thread(leaving.wait, 60) == 0
    finally:
        leaving.kill()
    job = await store.get(job_id)
    assert (job.status, job.attempt) == ("queued", 0)
