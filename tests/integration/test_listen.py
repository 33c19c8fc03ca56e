"""``sightline listen`` as its user runs it: a process that verifies what comes in and prints it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from shared.signing import make_secret, sign
from tests.conftest import WEBHOOK_SECRET

EVENT = {"type": "job.succeeded", "timestamp": "…", "data": {"id": "job_1", "output": {"text": "一个红色的圆。"}}}


def post(url: str, secret: str) -> int:
    body, at_s = json.dumps(EVENT, ensure_ascii=False).encode(), int(time.time())
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(at_s),
        "webhook-signature": sign(secret, event_id="evt_1", at_s=at_s, body=body),
    }
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.fixture
def listening(request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "sightline.cli", "listen", "--port", "0", "--secret", WEBHOOK_SECRET, *request.param]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        yield process, process.stderr.readline().split()[-1]
        process.kill()


@pytest.mark.parametrize("listening", [[]], indirect=True)
def test_it_prints_what_is_genuine_and_refuses_the_rest(listening: tuple[subprocess.Popen[str], str]) -> None:
    process, url = listening

    assert post(url, make_secret()) == 401
    assert post(url, WEBHOOK_SECRET) == 204
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)

    assert out == "job.succeeded job_1 一个红色的圆。\n"
    assert "not signed with this secret" in err
    assert process.returncode == 0


@pytest.mark.parametrize("listening", [["--json"]], indirect=True)
def test_it_prints_json(listening: tuple[subprocess.Popen[str], str]) -> None:
    process, url = listening

    assert post(url, WEBHOOK_SECRET) == 204
    process.send_signal(signal.SIGINT)

    (line,) = process.communicate(timeout=30)[0].splitlines()
    assert json.loads(line) == {"id": "evt_1", "type": "job.succeeded", "data": EVENT["data"]}


def complaint(*args: str) -> str:
    """Run the command where it cannot listen, and give what it says."""
    command = [sys.executable, "-m", "sightline.cli", "listen", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    return " ".join(done.stderr.split())


@pytest.mark.parametrize("args", [["--port", "0"], ["--secret", "whsec_not base64"]])
def test_it_says_how_to_come_by_a_secret(args: list[str]) -> None:
    assert "sightline secret" in complaint(*args)


def test_it_says_that_the_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen on port {port}: Address already in use" in complaint("--secret", WEBHOOK_SECRET, "--port", port)
