"""Keys over HTTP: for a key that may administer others, and for nobody else."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from api.admin_keys import KeyLimits, KeyView
from shared.settings import ROOT, Settings
from shared.store.api_keys import ApiKey, ApiKeys, Limits
from tests.integration.conftest import gateway_for
from tests.integration.test_keys import ASK

LIMITS = {"max_requests": 100, "max_queued": 9, "max_running": 4, "weight": 2.5}


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture
async def admin(settings: Settings, redis: Redis) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client that shows a key with the right; its id is ``client.key_id``."""
    async with gateway_for(settings.model_copy(update={"require_keys": True})) as client:
        key, secret = await ApiKeys(redis).create("root", admin=True)
        client.headers.update(bearer(secret))
        client.key_id = key.id  # type: ignore[attr-defined]
        yield client


def own_id(client: httpx.AsyncClient) -> str:
    key_id: str = client.key_id  # type: ignore[attr-defined]
    return key_id


async def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def ask_all(client: httpx.AsyncClient, key_id: str, **more: Any) -> list[httpx.Response]:
    """Ask each of the five."""
    asked: list[tuple[str, str, Any]] = [
        ("POST", "/v1/keys", {"name": "x"}),
        ("GET", "/v1/keys", None),
        ("GET", f"/v1/keys/{key_id}", None),
        ("PATCH", f"/v1/keys/{key_id}", {"max_running": 1}),
        ("DELETE", f"/v1/keys/{key_id}", None),
    ]
    return [await client.request(method, path, json=body, **more) for method, path, body in asked]


async def test_a_key_is_made_used_limited_and_revoked(admin: httpx.AsyncClient) -> None:
    made = await admin.post("/v1/keys", json={"name": "小明", **LIMITS})
    key = made.json()
    secret = key.pop("secret")
    assert made.status_code == 201
    assert {name: key[name] for name in LIMITS} == LIMITS
    assert (key["object"], key["name"], key["admin"]) == ("api_key", "小明", False)

    path = f"/v1/keys/{key['id']}"
    assert (await admin.get(path)).json() == key
    assert (await admin.post("/v1/jobs", json=ASK, headers=bearer(secret))).status_code == 202

    changed = await admin.patch(path, json={"max_running": 1, "max_queued": 0})
    assert changed.json() == key | {"max_running": 1, "max_queued": 0}
    assert (await admin.patch(path, json={})).json() == changed.json()
    assert (await admin.get(path)).json() == changed.json()

    gone = await admin.delete(path)
    assert gone.json() == {"id": key["id"], "object": "api_key.deleted", "deleted": True}
    assert await refusal(await admin.get("/v1/jobs", headers=bearer(secret))) == (401, "invalid_api_key")
    for method in ("GET", "DELETE"):
        assert await refusal(await admin.request(method, path)) == (404, "not_found")
    assert await refusal(await admin.patch(path, json={"max_running": 1})) == (404, "not_found")


async def test_a_limit_set_over_http_holds_for_scripts_too(admin: httpx.AsyncClient) -> None:
    key = (await admin.post("/v1/keys", json={"name": "few"})).json()
    await admin.patch(f"/v1/keys/{key['id']}", json={"max_queued": 1})

    answers = [await admin.post("/v1/jobs", json=ASK, headers=bearer(key["secret"])) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [202, 429]


async def test_who_may_not_administer_is_told_so_before_the_body_is_read(admin: httpx.AsyncClient, redis: Redis) -> None:
    key, secret = await ApiKeys(redis).create("plain")

    for answer in await ask_all(admin, key.id, headers=bearer(secret)):
        assert await refusal(answer) == (403, "admin_key_required")
        assert "sightline keys create NAME --admin" in answer.json()["error"]["message"]
    no_json = await admin.post("/v1/keys", content=b"{", headers=bearer(secret))
    assert await refusal(no_json) == (403, "admin_key_required")
    assert [one.name for one in await ApiKeys(redis).list_keys()] == ["root", "plain"]
    assert (await ApiKeys(redis).get(key.id)).max_running == 0


async def test_a_gateway_without_keys_lets_nobody_administer_them(gateway: httpx.AsyncClient, redis: Redis) -> None:
    key, secret = await ApiKeys(redis).create("root", admin=True)

    for headers in ({}, bearer(secret)):
        for answer in await ask_all(gateway, key.id, headers=headers):
            assert await refusal(answer) == (403, "admin_key_required")
            assert "asks for no API keys" in answer.json()["error"]["message"]
    assert await ApiKeys(redis).list_keys() == [key]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a\x1b[2J"}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": "x", "admin": True}, "admin"),
        ({"name": "x", "max_queued": -1}, "max_queued"),
        ({"name": "x", "max_requests": 2**53}, "max_requests"),
        ({"name": "x", "weight": 0}, "weight"),
    ],
)
async def test_what_no_key_may_be_is_refused(admin: httpx.AsyncClient, redis: Redis, body: Any, param: str) -> None:
    answer = await admin.post("/v1/keys", json=body)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert len(await ApiKeys(redis).list_keys()) == 1


async def test_the_right_is_not_given_over_http(admin: httpx.AsyncClient) -> None:
    key = (await admin.post("/v1/keys", json={"name": "x"})).json()

    assert (await admin.patch(f"/v1/keys/{key['id']}", json={"admin": True})).status_code == 400
    assert (await admin.get("/v1/keys", headers=bearer(key["secret"]))).status_code == 403


async def test_the_last_key_that_may_administer_stays(admin: httpx.AsyncClient, redis: Redis) -> None:
    await ApiKeys(redis).create("plain")
    own = f"/v1/keys/{own_id(admin)}"

    assert await refusal(await admin.delete(own)) == (409, "last_admin_key")
    assert (await admin.get(own)).status_code == 200

    other, _ = await ApiKeys(redis).create("second", admin=True)
    assert (await admin.delete(own)).status_code == 200
    assert await refusal(await admin.get(own)) == (401, "invalid_api_key")
    assert await ApiKeys(redis).revoke(other.id)  # where the service runs, one may


async def test_two_that_revoke_each_other_at_once_leave_one(admin: httpx.AsyncClient, redis: Redis) -> None:
    for _ in range(10):
        other, secret = await ApiKeys(redis).create("second", admin=True)
        ids = own_id(admin), other.id

        answers = await asyncio.gather(
            admin.delete(f"/v1/keys/{ids[1]}"), admin.delete(f"/v1/keys/{ids[0]}", headers=bearer(secret))
        )

        assert min(answer.status_code for answer in answers) == 200
        (left,) = await ApiKeys(redis).list_keys()
        assert left.admin
        if left.id != ids[0]:
            admin.headers.update(bearer(secret))
            admin.key_id = left.id  # type: ignore[attr-defined]


async def test_keys_are_listed_page_by_page(admin: httpx.AsyncClient) -> None:
    names = [f"key {n}" for n in range(5)]
    ids = [own_id(admin)] + [(await admin.post("/v1/keys", json={"name": name})).json()["id"] for name in names]

    first = (await admin.get("/v1/keys", params={"limit": 4})).json()
    second = (await admin.get("/v1/keys", params={"limit": 4, "after": first["last_id"]})).json()

    assert [one["id"] for one in first["data"] + second["data"]] == ids
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert (first["first_id"], second["last_id"]) == (ids[0], ids[-1])


async def test_no_secret_is_kept_shown_again_or_logged(admin: httpx.AsyncClient, redis: Redis) -> None:
    with capture_logs() as lines:
        made = (await admin.post("/v1/keys", json={"name": "a"})).json()
        told = [await admin.get("/v1/keys"), await admin.patch(f"/v1/keys/{made['id']}", json={"max_running": 2})]
        told.append(await admin.delete(f"/v1/keys/{made['id']}"))

    part = made["secret"].split("-", 3)[3]  # behind the id; it may hold dashes itself
    assert part not in "".join(answer.text for answer in told)
    assert part not in json.dumps(lines, default=str)
    assert [line["event"] for line in lines if line["event"].startswith("key.")] == [
        "key.created",
        "key.limited",
        "key.revoked",
    ]
    assert {line["by"] for line in lines if line["event"].startswith("key.")} == {own_id(admin)}
    for name in await redis.keys():
        if await redis.type(name) == "hash":
            assert part not in json.dumps(await redis.hgetall(name))  # type: ignore[misc]


def test_every_limit_of_a_key_can_be_set_and_seen() -> None:
    assert KeyLimits.model_fields.keys() == Limits.__annotations__.keys()
    assert KeyView.model_fields.keys() == {*ApiKey.__dataclass_fields__, "object"}
    form = (ROOT / "api/page/static/settings/key_form.js").read_text()
    assert re.findall(r"^  \['(\w+)'", form, flags=re.MULTILINE) == list(Limits.__annotations__)
