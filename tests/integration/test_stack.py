"""All parts on one machine: a runner of batches, a sender, or a worker that has served, is started again; others end all."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline import stack as stacks
from sightline.client import Client
from sightline.stack import Stack, StackFailed
from tests.media import data_url, picture

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
