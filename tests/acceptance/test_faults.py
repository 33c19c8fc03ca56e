"""Services die under a running service: nothing is lost, and the model is loaded again only when the engine itself died."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from demo.scenes import scene
from sightline.client import Client, ServiceError
from sightline.stack import Stack
from tests.acceptance.conftest import ask_about, engine_processes, is_alive, until, worker_of

pytestmark = pytest.mark.timeout(600)
SEED = 888_000


def cancel(client: Client, job_id: str) -> str:
    try:
        client.request("POST", f"/v1/jobs/{job_id}/cancel")
    except ServiceError as error:
        return error.code
    return "accepted"


def test_64_cancelled_jobs_end_within_seconds_and_free_the_engine(client: Client):
    with ThreadPoolExecutor(16) as pool:
        jobs = list(pool.map(lambda n: client.submit(ask_about(SEED + n))["id"], range(64)))
        began = time.monotonic()
        # The youngest first: on a busy machine the engine may be done with the others before this client gets to them.
        answers = list(pool.map(lambda job_id: cancel(client, job_id), reversed(jobs)))[::-1]
        jobs.append(client.submit(ask_about(SEED))["id"])
        answers.append(cancel(client, jobs[-1]))
        ended = list(pool.map(lambda job_id: client.wait(job_id, timeout_s=10), jobs))
    assert time.monotonic() - began < 20
    for answer, job in zip(answers, ended, strict=True):
        assert job["status"] in ({"cancelled", "succeeded"} if answer == "accepted" else {"succeeded"})
    assert any(job["status"] == "cancelled" for job in ended)
    # The engine's step goes on to its end, with all their pictures in it: on cores that another engine shares it takes seconds.
    until(lambda: worker_of(client)["engine_running"] == 0, within_s=30)
    with pytest.raises(ServiceError, match="already"):
        client.request("POST", f"/v1/jobs/{jobs[0]}/cancel")


def test_a_killed_engine_is_started_again_and_its_jobs_succeed(client: Client, stack: Stack):
    before = worker_of(client)["engine_restarts"]
    fronts, cores = engine_processes(stack)
    jobs = [client.submit(ask_about(SEED + n, sampling={"max_tokens": 60})) for n in range(1, 9)]
    cores[0].kill()
    ended = [client.wait(job["id"], timeout_s=240) for job in jobs]
    assert [job["status"] for job in ended] == ["succeeded"] * len(jobs)
    assert [job["output"]["text"] for job in ended] == [scene(SEED + n).caption("en") for n in range(1, 9)]
    until(lambda: worker_of(client)["engine_restarts"] == before + 1, within_s=10)
    assert not any(is_alive(process) for process in (*fronts, *cores))


def test_a_killed_redis_comes_back_with_every_job_and_no_model_is_loaded_again(client: Client, stack: Stack):
    restarts, pid = worker_of(client)["engine_restarts"], stack.processes["worker-0"].pid
    job = client.submit(ask_about(SEED + 20))
    assert client.wait(job["id"], timeout_s=60)["status"] == "succeeded"
    os.kill(stack.processes["redis"].pid, signal.SIGKILL)
    stack.processes["redis"].wait()
    with pytest.raises(ServiceError) as refused, Client(stack.url, retry_s=0) as impatient:
        impatient.submit(ask_about(SEED + 21))
    assert refused.value.code == "store_unavailable"
    stack.respawn("redis")

    def works() -> bool:
        try:
            later = client.submit(ask_about(SEED + 22))
            return client.wait(later["id"], timeout_s=60)["status"] == "succeeded"
        except ServiceError:
            return False

    until(works, within_s=60)
    assert client.request("GET", f"/v1/jobs/{job['id']}")["status"] == "succeeded"
    assert stack.processes["worker-0"].pid == pid
    assert stack.processes["worker-0"].poll() is None
    assert worker_of(client)["engine_restarts"] == restarts
