"""Redis's clock counts, whatever a host's own says."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import httpx
import pytest
from standardwebhooks import Webhook

from shared.settings import Settings
from shared.store import clock
from shared.store.connection import connect
from shared.store.endpoints import Endpoints
from shared.store.jobs import JobStore
from shared.store.workers import WorkerRegistry
from sightline.checks import store as checks
from tests.conftest import WEBHOOK_SECRET
from tests.integration.conftest import Site, Worker, until
from tests.integration.test_sender import Hooks, send
from tests.media import picture
from worker.webhooks.sender import Sender

Ahead = Callable[[float], None]


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> Ahead:
    """Give what sets this host's clock ahead of Redis's."""
    right = time.time

    def set_clock(by_s: float) -> None:
        monkeypatch.setattr(time, "time", lambda: right() + by_s)

    return set_clock


@pytest.mark.parametrize("ahead_s", [0, 600, -3600])
async def test_a_clock_that_differs_is_measured(ahead_s: float, settings: Settings, ahead: Ahead) -> None:
    right_s = time.time()
    ahead(ahead_s)
    async with connect(settings) as redis:
        assert await clock.now_s(redis) == pytest.approx(right_s, abs=5)
        skew_s = await clock.skew_s(redis)
    assert skew_s == pytest.approx(ahead_s, abs=5)
    assert clock.is_off(skew_s) is bool(ahead_s)


@pytest.mark.parametrize("ahead_s", [600, -600])
async def test_a_sender_that_is_minutes_off_signs_rightly(
    ahead_s: float, store: JobStore, settings: Settings, site: Site, ahead: Ahead, monkeypatch: pytest.MonkeyPatch
) -> None:
    await Hooks(store, settings).end_job(site.url)
    sender = Sender(settings)

    ahead(ahead_s)
    await send(sender)
    monkeypatch.undo()

    Webhook(WEBHOOK_SECRET).verify(site.asked[0].body, site.asked[0].headers)  # refuses 300 s and more
    await sender.close()


async def test_what_expires_does_so_by_redis(gateway: httpx.AsyncClient, store: JobStore, ahead: Ahead) -> None:
    right_s = time.time()
    ahead(49 * 3600)

    upload = (await gateway.post("/v1/files", files={"file": ("a.png", picture())})).json()
    assert upload["created_at"] == pytest.approx(right_s, abs=30)
    assert (await gateway.get(f"/v1/files/{upload['id']}")).status_code == 200

    endpoints = Endpoints(store.redis)
    endpoint = await endpoints.create(owner="me", name="n", url="https://example.com", events=["job.failed"], payload="full")
    ahead(0)
    await endpoints.rotate(endpoint.id, owner="me", keep_old=True)
    ahead(49 * 3600)
    assert (await endpoints.get(endpoint.id)).old_secret == endpoint.secret


async def test_a_clock_that_is_off_is_told(
    gateway: httpx.AsyncClient, settings: Settings, store: JobStore, ahead: Ahead, capsys: pytest.CaptureFixture[str]
) -> None:
    ahead(3600)
    async with Worker(settings).running():

        async def told() -> list[str] | None:
            answer = await gateway.get("/readyz")
            warnings: list[str] = answer.json().get("warnings", [])
            return warnings if answer.is_success and len(warnings) == 2 else None

        warnings = await until(told)  # of the gateway, and of the worker

    assert all(re.search(r"its clock is 3,(59\d|60\d) s ahead of that of Redis", warning) for warning in warnings)
    assert capsys.readouterr().out.count("clock.off") == 2
    line = checks.clock_line(settings)
    assert (line.ok, line.level) == (False, "optional")
    assert "ahead of that of Redis" in line.detail
    ahead(0)
    assert checks.clock_line(settings).ok
    registry = WorkerRegistry(store.redis)
    for worker in await registry.workers():
        await registry.heartbeat(worker["name"], worker | {"clock_skew_s": 0.1}, ttl_s=60)
    assert (await gateway.get("/readyz")).json()["warnings"] == []
