"""Registered webhook endpoints: told of every job, with their own secrets, until they are gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from openai import NotFoundError, OpenAI
from standardwebhooks import Webhook

from shared.settings import Settings
from shared.store.endpoints import MAX_ENDPOINTS
from shared.store.jobs import JobStore
from tests.integration.conftest import Asked, Reply, Site, serving
from tests.integration.test_job_store import OUTPUT, Records
from tests.integration.test_sender import send
from worker.webhooks.retry_policy import DISABLE_AFTER_S
from worker.webhooks.sender import Sender

ENDS = ["job.succeeded", "job.failed", "job.cancelled"]


class Api:
    """The routes, in few words."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = await self.client.post(path, json=body)
        assert answer.is_success, answer.text
        return dict(answer.json())

    async def get(self, path: str) -> dict[str, Any]:
        answer = await self.client.get(path)
        assert answer.is_success, answer.text
        return dict(answer.json())

    async def register(self, url: str, *event_types: str) -> dict[str, Any]:
        body = {"name": "日志", "url": url, "event_types": list(event_types) or ENDS}
        return await self.post("/v1/webhook_endpoints", body)


@pytest.fixture
def api(gateway: httpx.AsyncClient) -> Api:
    return Api(gateway)


@pytest.fixture
def records(store: JobStore, settings: Settings) -> Records:
    return Records(store, settings)


@pytest.fixture
async def sender(settings: Settings) -> AsyncIterator[Sender]:
    sender = Sender(settings)
    yield sender
    await sender.close()


@pytest.fixture
def other() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


async def end_job(records: Records, *, owner: str = "local", **given: Any) -> str:
    job_id = await records.submit(owner=owner, **given)
    await records.end(await records.claim(job_id), OUTPUT)
    return job_id


def verified(asked: Asked, secret: str) -> dict[str, Any]:
    return dict(Webhook(secret).verify(asked.body, asked.headers))


async def test_each_endpoint_gets_what_it_asked_for(
    api: Api, records: Records, sender: Sender, site: Site, other: Site
) -> None:
    first = await api.register(f"{site.url}/a", "job.succeeded", "job.running")
    second = await api.register(f"{other.url}/b", "job.failed")
    await end_job(records, owner="somebody else")
    job_id = await end_job(records, webhook={"url": f"{other.url}/own"}, metadata={"相册": "夏"})

    await send(sender)

    events = {verified(asked, first["signing_secret"])["type"]: asked for asked in site.asked}
    assert set(events) == {"job.running", "job.succeeded"}
    ended = json.loads(events["job.succeeded"].body)["data"]
    assert (ended["id"], ended["output"]["text"], ended["metadata"]) == (job_id, OUTPUT.text, {"相册": "夏"})
    running = json.loads(events["job.running"].body)["data"]
    assert (running["status"], "output" in running) == ("running", False)
    assert [asked.path for asked in other.asked] == ["/own"]
    assert first["signing_secret"] != second["signing_secret"]

    log = (await api.get(f"/v1/jobs/{job_id}/deliveries"))["data"]
    assert {(d["event_type"], d["webhook_endpoint_id"], d["status"]) for d in log} == {
        ("job.running", first["id"], "delivered"),
        ("job.succeeded", None, "delivered"),
        ("job.succeeded", first["id"], "delivered"),
    }
    assert len(log) == 3
    again = await api.post(f"/v1/jobs/{job_id}/deliveries/redeliver")
    assert {d["status"] for d in again["data"]} == {"pending"}
    await send(sender)
    assert sorted(asked.headers["webhook-id"] for asked in site.asked) == sorted(
        [asked.headers["webhook-id"] for asked in events.values()] * 2
    )


async def test_the_secret_is_shown_once(api: Api, site: Site) -> None:
    made = await api.register(site.url)
    read = await api.get(f"/v1/webhook_endpoints/{made['id']}")
    listed = await api.get("/v1/webhook_endpoints")

    secret = made.pop("signing_secret")
    assert read == made == listed["data"][0]
    assert read["signing_secret_hint"] == f"whsec_…{secret[-4:]}"
    assert secret not in json.dumps([read, listed])


async def test_secrets_change_over_without_a_gap(api: Api, records: Records, sender: Sender, site: Site) -> None:
    made = await api.register(site.url)
    path = f"/v1/webhook_endpoints/{made['id']}"
    rotated = await api.post(f"{path}/rotate_secret", {"keep_old_secret_active_for_24_hours": True})
    await end_job(records)
    await send(sender)
    at_once = await api.post(f"{path}/rotate_secret")
    await end_job(records)
    await send(sender)

    both, newest = site.asked
    verified(both, made["signing_secret"])
    verified(both, rotated["signing_secret"])
    verified(newest, at_once["signing_secret"])
    assert len(newest.headers["webhook-signature"].split()) == 1


async def test_a_receiver_that_is_gone_is_put_out_of_use(api: Api, records: Records, sender: Sender, site: Site) -> None:
    made = await api.register(site.url)
    path = f"/v1/webhook_endpoints/{made['id']}"
    site.replies = [Reply(410), Reply(204)]
    job_id = await end_job(records)
    await send(sender)

    off = await api.get(path)
    assert (off["status"], off["disabled_reason"]) == ("disabled", "the receiver answered 410 Gone")
    await end_job(records)
    await send(sender)
    assert len(site.asked) == 1
    assert (await api.get(f"/v1/jobs/{job_id}/deliveries"))["data"][0]["status"] == "given_up"

    assert (await api.post(path, {"enabled": True}))["status"] == "enabled"
    assert (await api.post(f"{path}/recover", {"since": 0}))["deliveries"] == 2
    await send(sender)
    assert len(site.asked) == 3
    assert (await api.post(f"{path}/recover", {"since": 0}))["deliveries"] == 0


async def test_five_days_of_failures_put_it_out_of_use(api: Api, records: Records, sender: Sender, site: Site) -> None:
    made = await api.register(site.url)
    site.replies = [Reply(500)]
    await end_job(records)
    await send(sender)
    since_ms = int(await records.redis.hget(f"sightline:{{sightline}}:target:{made['id']}", "failing_since_ms"))
    longer_ago = since_ms - int(DISABLE_AFTER_S * 1000)
    await records.redis.hset(f"sightline:{{sightline}}:target:{made['id']}", "failing_since_ms", longer_ago)

    await end_job(records)
    await send(sender)

    off = await api.get(f"/v1/webhook_endpoints/{made['id']}")
    assert (off["status"], off["disabled_reason"]) == (
        "disabled",
        "every delivery has failed for 5 days, the last one with 500",
    )
    assert await records.redis.zcard("sightline:{sightline}:due") == 0


async def test_a_test_tells_what_the_receiver_says(api: Api, site: Site) -> None:
    made = await api.register(site.url)
    path = f"/v1/webhook_endpoints/{made['id']}/test"
    site.replies = [Reply(418)]

    tested = await api.post(path, {"event_type": "job.failed"})

    assert (tested["status_code"], tested["event_type"]) == (418, "job.failed")
    assert verified(site.asked[0], made["signing_secret"])["type"] == "job.failed"
    await api.post(f"/v1/webhook_endpoints/{made['id']}", {"url": "http://127.0.0.1:9999/"})
    silent = await api.client.post(path, json={"event_type": "job.failed"})
    assert (silent.status_code, silent.json()["error"]["code"]) == (502, "receiver_silent")


async def test_changes_reach_what_is_due_already(api: Api, records: Records, sender: Sender, site: Site, other: Site) -> None:
    made = await api.register(site.url)
    await end_job(records)

    await api.post(f"/v1/webhook_endpoints/{made['id']}", {"url": other.url, "event_types": ["job.failed"], "name": "新"})
    await send(sender)

    assert (len(site.asked), len(other.asked)) == (0, 1)
    await end_job(records)
    await send(sender)
    assert len(other.asked) == 1


async def test_a_deleted_endpoint_is_sent_nothing(api: Api, records: Records, sender: Sender, site: Site) -> None:
    made = await api.register(site.url)
    job_id = await end_job(records)

    assert (await api.client.delete(f"/v1/webhook_endpoints/{made['id']}")).json()["deleted"] is True
    await send(sender)
    await api.post(f"/v1/jobs/{job_id}/deliveries/redeliver")
    await send(sender)

    assert site.asked == []
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/rotate_secret"), ("POST", ""), ("POST", "/recover")):
        url, body = f"/v1/webhook_endpoints/{made['id']}{path}", {"since": 0} if path == "/recover" else {}
        answer = await api.client.request(method, url, json=body)
        assert answer.status_code == 404, (method, path)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"url": "http://10.0.0.1/x", "event_types": ENDS}, "url", "address_refused"),
        ({"url": "ftp://example.com", "event_types": ENDS}, "url", "address_refused"),
        ({"url": "https://example.com", "event_types": ["job.exploded"]}, "event_types.0", "invalid_request"),
        ({"url": "https://example.com", "event_types": []}, "event_types", "invalid_request"),
        ({"url": "https://example.com"}, "event_types", "invalid_request"),
        ({"url": "https://example.com", "event_types": ENDS, "secret": "whsec_mine"}, "secret", "invalid_request"),
    ],
)
async def test_what_cannot_be_an_endpoint_is_refused(body: dict[str, Any], param: str, code: str, api: Api) -> None:
    answer = await api.client.post("/v1/webhook_endpoints", json=body)

    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)


async def test_an_owner_has_a_bounded_number(api: Api) -> None:
    for n in range(MAX_ENDPOINTS):
        await api.register(f"https://{n}.example.com")

    answer = await api.client.post("/v1/webhook_endpoints", json={"url": "https://example.com", "event_types": ENDS})

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_many_endpoints")


async def test_the_openai_client_drives_it(settings: Settings, site: Site) -> None:
    async with serving(settings) as (client, _):
        sdk = OpenAI(api_key="EMPTY", base_url=f"{client.base_url}/v1", max_retries=0)
        await asyncio.to_thread(_drive, sdk, site)
        sdk.close()


def _drive(sdk: OpenAI, site: Site) -> None:
    hooks, events = sdk.webhooks, {"event_types": ["job.succeeded"]}
    made = hooks.create(name="one", url=site.url, event_types=[], extra_body=events)
    second = hooks.create(name="two", url=site.url, event_types=[], extra_body=events)
    assert made.signing_secret.startswith("whsec_")
    assert [endpoint.name for endpoint in hooks.list(limit=1)] == ["one", "two"]  # over two pages
    assert hooks.retrieve(made.id).url == site.url
    assert hooks.update(made.id, name="eins").name == "eins"
    assert "job.running" in hooks.event_types.list().data
    tested = hooks.test(made.id, event_type="batch.completed", extra_body={"event_type": "job.succeeded"})
    assert tested.status_code == 200
    assert hooks.unwrap(site.asked[0].body, site.asked[0].headers, secret=made.signing_secret)
    rotated = hooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
    assert rotated.signing_secret != made.signing_secret
    assert hooks.delete(second.id).deleted
    with pytest.raises(NotFoundError, match="no webhook endpoint"):
        hooks.retrieve(second.id)
