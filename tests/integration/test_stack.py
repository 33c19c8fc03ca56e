"""All parts on one machine: a runner of batches, a sender, or a worker that has served, is started again; others end all."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline import stack as stacks
from sightline.client import Client, ServiceError
from sightline.stack import Stack, StackFailed
from tests.acceptance.conftest import until
from tests.media import data_url, picture
from tests.page.conftest import make_key

pytestmark = pytest.mark.own_python
DOUBLE = {"SIGHTLINE_ENGINE": "tests.double:DoubleEngine", "SIGHTLINE_DECODE_PROCESSES": "1", "SIGHTLINE_MIN_FREE_BYTES": "0"}


@pytest.mark.parametrize(("name", "command"), [("batches", ("api.batches.main",)), ("webhooks", ("worker.main", "webhooks"))])
def test_a_runner_of_batches_or_a_sender_that_dies_is_started_again(
    name: str, command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks, "STEADY_S", 0.0)
    stack = Stack(tmp_path)
    (tmp_path / "logs").mkdir()
    try:
        stack.spawn("redis", "sightline.embedded", str(stack.redis_port), str(tmp_path / "redis"))
        first = stack.spawn(name, *command)
        first.kill()
        first.wait()
        assert stack.check() == [name]
        assert stack.processes[name].poll() is None
        assert stack.check() == []

        monkeypatch.setattr(stacks, "STEADY_S", 60.0)  # it dies again at once
        stack.processes[name].kill()
        stack.processes[name].wait()
        with pytest.raises(StackFailed, match=f"{name} was killed by signal 9"):
            stack.check()
    finally:
        stack.stop()


def test_a_worker_that_is_killed_is_started_again_and_its_job_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "STEADY_S", 0.0)
    with Stack(tmp_path, settings=DOUBLE) as stack, Client(stack.url) as client:
        stack.wait_ready()
        first = stack.processes["worker-0"]
        job = client.submit({"prompt": "!slow 1", "images": [data_url(picture())]})
        first.kill()
        first.wait()
        assert stack.check() == ["worker-0"]
        assert stack.processes["worker-0"].pid != first.pid
        assert client.wait(job["id"], timeout_s=60)["status"] == "succeeded"
        assert stack.check() == []


def test_a_worker_that_is_told_to_drain_ends_what_it_holds_and_leaves(tmp_path: Path) -> None:
    with Stack(tmp_path, settings=DOUBLE | {"SIGHTLINE_REQUIRE_KEYS": "true"}) as stack:
        admin, other = make_key(stack, "Ada", "--admin"), make_key(stack, "Bo")
        stack.wait_ready()
        first = stack.processes["worker-0"]
        with Client(stack.url, api_key=other, retry_s=0) as client, Client(stack.url, api_key=admin) as ada:
            job = client.submit({"prompt": "!slow 3", "images": [data_url(picture())]})
            until(lambda: client.job(job.id)["status"] == "running", within_s=30)
            (worker,) = client.request("GET", "/v1/workers")["data"]
            path = f"/v1/workers/{worker['id']}/drain"
            with pytest.raises(ServiceError) as refused:
                client.request("POST", path)
            assert refused.value.code == "admin_key_required"
            for _ in range(2):  # told twice, it leaves as if told once
                assert ada.request("POST", path)["id"] == worker["id"]
            until(lambda: [one["phase"] for one in client.request("GET", "/v1/workers")["data"]] == ["draining"], within_s=30)
            late = client.submit({"prompt": "late", "images": [data_url(picture())]})

            assert first.wait(30) == 0
            done = client.job(job.id)
            assert (done["status"], done["attempt"]) == ("succeeded", 1)
            assert client.job(late.id)["status"] == "queued"
            with pytest.raises(ServiceError) as gone:
                ada.request("POST", path)
            assert gone.value.status == 404

            assert stack.check() == ["worker-0"]  # though the first did not live for long
            assert client.wait(late.id, timeout_s=60)["status"] == "succeeded"


def test_a_worker_that_dies_before_it_served_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "STEADY_S", 0.0)
    stack = Stack(tmp_path, settings=DOUBLE)
    (tmp_path / "logs").mkdir()
    try:
        worker = stack.spawn("worker-0", "worker.main", "jobs")
        worker.kill()
        worker.wait()
        with pytest.raises(StackFailed, match="worker-0 was killed by signal 9"):
            stack.check()
    finally:
        stack.stop()
