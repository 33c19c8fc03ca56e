"""``python -m tests.chaos.alerts``: each alert by a failure of real processes, in a real Prometheus whose hours are minutes.

First an hour goes by with ordinary work, clients' own faults and a worker that is replaced, and no alert may fire. Then one
thing after another is broken, its alerts have to fire, and once all is mended none may be left. The rules are those that come
with the service, but for their times, which are sixty times shorter. The last line is JSON; the exit code says whether it
was so.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from shared.settings import ROOT
from sightline.client import Client
from sightline.ports import free_port
from sightline.receiver import Receiver
from sightline.stack import Stack, kill_group
from tests.chaos.prometheus import Prometheus
from tests.media import data_url, picture

FASTER = 60
HOUR_S = 3600 / FASTER
WITHIN_S = 90.0  #: the slowest alert wants forty seconds of an old queue
SECONDS = {"m": 60, "h": 3600}
WORKERS = ("worker-0", "worker-1")
SETTINGS = {
    "SIGHTLINE_ENGINE": "tests.double:DoubleEngine",
    "SIGHTLINE_DECODE_PROCESSES": "1",
    "SIGHTLINE_MAX_NUM_SEQS": "4",
    "SIGHTLINE_MIN_FREE_BYTES": "0",
    "SIGHTLINE_LEASE_S": "3",
    "SIGHTLINE_ALLOW_NETWORKS": "127.0.0.0/8",
    "SIGHTLINE_WEBHOOK_SCHEDULE_S": "0.2,0.2",
}
PICTURE, TORN = data_url(picture()), data_url(picture()[:60])


def hurried(rules: str) -> str:
    """Shorten all times of the rules: windows, offsets, how long a thing has to last, and ages in seconds."""

    def shorter(found: re.Match[str]) -> str:
        return f"{found[1]}{int(found[2]) * SECONDS[found[3]] // FASTER}s"

    rules = re.sub(r"(\[|offset |for: )(\d+)([mh])\b", shorter, rules)
    return re.sub(r'(_seconds(?:\{class!="bulk"\})?\) > )(\d+)', lambda found: f"{found[1]}{int(found[2]) // FASTER}", rules)


class Service:
    """All parts, and what clients do with them."""

    def __init__(self, stack: Stack, client: Client, pool: ThreadPoolExecutor, receiver: Receiver) -> None:
        """Take what runs already."""
        self.stack, self.client, self._pool, self._receiver = stack, client, pool, receiver

    def submit(self, prompt: str, **more: Any) -> str:
        """Submit a job about a picture; gives its id."""
        return str(self.client.submit({"prompt": prompt, "images": [PICTURE], **more})["id"])

    def chat(self, prompt: str) -> None:
        """Ask in a chat, of which nobody waits for the answer."""
        body = {"model": "qwen-vl", "messages": [{"role": "user", "content": prompt}]}
        self._pool.submit(httpx.post, f"{self.stack.url}/v1/chat/completions", json=body, timeout=120)

    def kill(self, *names: str) -> None:
        """Kill parts, each with all its processes."""
        for name in names:
            kill_group(self.stack.processes[name])
            self.stack.processes[name].wait()

    def back(self, *names: str) -> None:
        """Start parts again, and wait until all is as it should be."""
        for name in names:
            self.stack.respawn(name)
        self.stack.wait_ready()

    def ordinary_work(self, turn: int) -> None:
        """Do what goes on in a good hour: jobs that end well, and those that end by their clients' own fault."""
        self.submit("hello", webhook={"url": self._receiver.url})
        self.submit("!fail 1 of its attempts")
        self.chat("hello")
        self.client.submit({"prompt": "?", "images": [TORN]})
        self.submit("!long")
        if turn % 5 == 0:
            self.client.request("POST", f"/v1/jobs/{self.submit('!slow 5')}/cancel")


@contextmanager
def engines_that_fail(service: Service) -> Iterator[None]:
    """Half of the jobs end by a fault of the engine."""
    for n in range(260):
        service.submit("!crash" if n % 2 else "hello")
        time.sleep(0.05)
    yield


@contextmanager
def poison(service: Service) -> Iterator[None]:
    """Pictures kill the engine, one after the other."""
    for _ in range(3):
        service.client.wait(service.submit("!kill"), timeout_s=60)
    yield


@contextmanager
def workers_that_die(service: Service) -> Iterator[None]:
    """A worker is killed with all that it holds, and again."""
    for _ in range(2):
        for _ in range(12):
            service.submit("!slow 6")
        time.sleep(3)
        service.kill("worker-0")
        service.stack.respawn("worker-0")
        time.sleep(5)
    yield
    service.back()


@contextmanager
def receiver_that_is_gone(service: Service) -> Iterator[None]:
    """Nobody listens where a webhook is sent."""
    service.submit("hello", webhook={"url": f"http://127.0.0.1:{free_port()}/"})
    yield


@contextmanager
def no_sender(service: Service) -> Iterator[None]:
    """The webhook sender is gone."""
    service.kill("webhooks")
    service.submit("hello", webhook={"url": service._receiver.url})
    yield
    service.back("webhooks")


@contextmanager
def too_many_chats(service: Service) -> Iterator[None]:
    """More chats than all places take, each of them long."""
    for _ in range(40):
        service.chat("!slow 8")
    yield


@contextmanager
def no_redis(service: Service) -> Iterator[None]:
    """Redis is killed."""
    service.kill("redis")
    yield
    service.back("redis")


@contextmanager
def stopped_redis(service: Service) -> Iterator[None]:
    """Redis takes connections, and answers nothing."""
    redis = service.stack.processes["redis"]
    redis.send_signal(signal.SIGSTOP)
    yield
    redis.send_signal(signal.SIGCONT)
    service.back()


@contextmanager
def no_gateway(service: Service) -> Iterator[None]:
    """The only gateway is killed."""
    service.kill("gateway")
    yield
    service.back("gateway")


@contextmanager
def no_workers(service: Service) -> Iterator[None]:
    """All workers are killed at their work, and jobs come."""
    for _ in range(4):
        service.submit("!slow 5")
    time.sleep(2)
    service.kill(*WORKERS)
    service.submit("hello")
    yield
    service.back(*WORKERS)


Failure = Callable[[Service], Any]
PLAYED: dict[Failure, set[str]] = {
    engines_that_fail: {"SightlineJobsFailFast", "SightlineJobsFailSlowly"},
    poison: {"SightlineEngineRestarts", "SightlinePoisonJobs"},
    workers_that_die: {"SightlineWorkersDie"},
    receiver_that_is_gone: {"SightlineWebhooksGivenUp"},
    no_sender: {"SightlineWebhooksStuck"},
    too_many_chats: {"SightlineChatsWait"},
    no_redis: {"SightlineRedisDown"},
    stopped_redis: {"SightlineRedisDown"},
    no_gateway: {"SightlineDown"},
    no_workers: {"SightlineNoReadyWorker", "SightlineQueueStuck", "SightlineQueueOld"},
}


def firing(prometheus: Prometheus) -> set[str]:
    """Say which alerts fire now."""
    return {name for (name,) in prometheus.ask('count by (alertname) (ALERTS{alertstate="firing"})')}


def _all_fire(prometheus: Prometheus, alerts: set[str]) -> bool:
    return alerts <= firing(prometheus)


def reached(is_so: Callable[[], bool], within_s: float) -> bool:
    """Wait until something is so."""
    until = time.monotonic() + within_s
    while not (so := is_so()) and time.monotonic() < until:
        time.sleep(0.5)
    return so


def quiet_hour(service: Service, prometheus: Prometheus) -> set[str]:
    """Have an ordinary hour; gives the alerts that fired in it."""
    reached(lambda: prometheus.one("sightline_redis_up") == 1 and not firing(prometheus), WITHIN_S)  # before its first scrape
    time.sleep(1)
    began, turn = time.monotonic(), 0
    while time.monotonic() < began + HOUR_S:
        service.ordinary_work(turn)
        if turn == 20:  # somewhere in the middle
            service.stack.processes["worker-1"].terminate()
            service.stack.processes["worker-1"].wait()
            service.stack.respawn("worker-1")
        turn += 1
        time.sleep(1)
    asked = f'count by (alertname) (count_over_time(ALERTS{{alertstate="firing"}}[{time.monotonic() - began:.0f}s]))'
    return {name for (name,) in prometheus.ask(asked)}


def play(service: Service, prometheus: Prometheus) -> dict[str, Any]:
    """Play the hour and the failures; gives what fired."""
    figures: dict[str, Any] = {"quiet_hour": sorted(quiet_hour(service, prometheus)), "missing": {}, "played": {}}
    for failure, alerts in PLAYED.items():
        reached(lambda: not alerts & firing(prometheus), 2 * HOUR_S)  # noqa: B023  # it is called here
        began = time.monotonic()
        with failure(service):
            if not reached(partial(_all_fire, prometheus, alerts), WITHIN_S):
                figures["missing"][failure.__name__] = sorted(alerts - firing(prometheus))
            fired, seconds = sorted(firing(prometheus)), round(time.monotonic() - began, 1)
        figures["played"][failure.__name__] = {"firing": fired, "seconds": seconds}
        sys.stderr.write(f"{failure.__name__}: after {seconds} s {', '.join(fired)}\n")
    reached(lambda: not firing(prometheus), 2 * HOUR_S)
    return figures | {"left": sorted(firing(prometheus))}


def main() -> int:
    """Play it all once; gives the exit code."""
    folder = Path(tempfile.mkdtemp(prefix="sightline-alerts-"))
    rules = folder / "rules.yml"
    rules.write_text(hurried((ROOT / "ops/prometheus/rules.yml").read_text()))
    sys.stderr.write(f"logs in {folder}\n")
    with (
        Stack(folder / "stack", settings=SETTINGS, workers=len(WORKERS)) as stack,
        Client(stack.url) as client,
        ThreadPoolExecutor(64) as pool,
        Receiver(stack.secret) as receiver,
    ):
        stack.wait_ready()
        with Prometheus(folder, stack.port, [], rules=rules) as prometheus:
            figures = play(Service(stack, client, pool, receiver), prometheus)
    sys.stdout.write(json.dumps(figures) + "\n")
    return 1 if figures["quiet_hour"] or figures["missing"] or figures["left"] else 0


if __name__ == "__main__":
    sys.exit(main())
