"""API keys: asked for on every route, and what one creates does not exist for another."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from redis.asyncio import Redis

import api.authentication
from api.authentication import KeyedRoute
from shared.settings import Settings
from shared.store.api_keys import ApiKey, ApiKeys
from shared.store.key_names import PREFIX
from tests.conftest import make_settings
from tests.integration.conftest import app_of, gateway_for, stored_files, until
from tests.integration.served import served
from tests.integration.test_commands import run
from tests.media import data_url, picture

OPEN = {"/livez", "/readyz", "/health", "/version", "/", "/docs", "/page/{path:path}"}
ASK = {"prompt": "x", "images": [data_url(picture())]}


@pytest.fixture
async def guarded(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway_for(settings.model_copy(update={"require_keys": True})) as client:
        yield client


async def bearer(redis: Redis, name: str = "a", **limits: int) -> dict[str, str]:
    _, secret = await ApiKeys(redis).create(name, **limits)
    return {"authorization": f"Bearer {secret}"}


def routes(client: httpx.AsyncClient) -> list[tuple[str, str]]:
    found = [route for route in app_of(client).routes if isinstance(route, APIRoute)]
    assert {route.path for route in found if not isinstance(route, KeyedRoute)} == OPEN
    return [(method, route.path) for route in found if route.path not in OPEN for method in route.methods]


async def test_every_route_asks_for_a_key(guarded: httpx.AsyncClient, redis: Redis) -> None:
    other = await bearer(redis)
    forged = {"authorization": other["authorization"][:-1] + "_"}
    for method, path in routes(guarded):
        for headers in ({}, {"authorization": "Bearer EMPTY"}, {"authorization": "Basic eA=="}, forged):
            answer = await guarded.request(method, path.replace(":path", ""), headers=headers, content=b"no JSON")
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key"), (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_key_is_not_kept_and_can_be_revoked(guarded: httpx.AsyncClient, redis: Redis) -> None:
    headers = await bearer(redis)
    assert (await guarded.get("/v1/jobs", headers=headers)).status_code == 200
    secret = headers["authorization"].split()[1]
    for name in await redis.keys():
        if await redis.type(name) == "hash":
            assert secret not in json.dumps(await redis.hgetall(name))  # type: ignore[misc]

    (key,) = await ApiKeys(redis).list_keys()
    assert await ApiKeys(redis).revoke(key.id)
    assert (await guarded.get("/v1/jobs", headers=headers)).status_code == 401


async def owned(client: httpx.AsyncClient, headers: dict[str, str]) -> dict[str, str]:
    """Create one thing of each kind; gives the ids by the name that routes give them."""
    job = (await client.post("/v1/jobs", json=ASK, headers=headers)).json()
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {}}
    files = {"file": ("in.jsonl", json.dumps(line).encode())}
    file = (await client.post("/v1/files", files=files, data={"purpose": "batch"}, headers=headers)).json()
    body = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = (await client.post("/v1/batches", json=body, headers=headers)).json()
    hook = {"url": "http://127.0.0.1:8080/hook", "event_types": ["job.succeeded"]}
    endpoint = (await client.post("/v1/webhook_endpoints", json=hook, headers=headers)).json()
    asked = {"model": "qwen-vl", "input": "x", "background": True}
    response = (await client.post("/v1/responses", json=asked, headers=headers)).json()
    things = {"job": job, "file": file, "batch": batch, "endpoint": endpoint, "response": response}
    return {f"{kind}_id": thing["id"] for kind, thing in things.items()}


FILE_PART = {"type": "input_file", "file_id": "FILE"}
#: What actions need in their bodies, so that these are valid.
BODIES: dict[str, dict[str, Any]] = {"test": {"event_type": "job.succeeded"}, "recover": {"since": 0}}


@pytest.mark.parametrize("path", ["/v1/files", "/v1/jobs", "/v1/chat/completions", "/v1/batches"])
async def test_what_comes_slowly_is_not_taken_of_a_key_that_was_revoked_meanwhile(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(api.authentication, "KEYS_EVERY_S", 0.05)
    headers = await bearer(redis, max_requests=100)
    form = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + picture() + b"\r\n--b--\r\n"
    chat = {"model": "qwen-vl", "messages": []}
    batch = {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    bodies = {"/v1/jobs": ASK, "/v1/chat/completions": chat, "/v1/batches": batch}
    body = form if path == "/v1/files" else json.dumps(bodies[path]).encode()
    kind = "multipart/form-data; boundary=b" if path == "/v1/files" else "application/json"

    async def slowly() -> AsyncIterator[bytes]:
        yield body[:40]
        await until(lambda: redis.keys(f"{PREFIX}requests:*"))  # the gateway has asked for the key, and counts its request
        await asyncio.sleep(0.1)
        await ApiKeys(redis).revoke((await ApiKeys(redis).list_keys())[0].id)
        yield body[40:]

    keyed = settings.model_copy(update={"require_keys": True})
    async with served(keyed, batches=False) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        answer = await client.post(path, content=slowly(), headers={**headers, "content-type": kind})

    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert not stored_files(settings)


def comparable(answer: httpx.Response) -> tuple[int, bytes]:
    return answer.status_code, re.sub(rb"req_[0-9a-f]{32}", b"req_", answer.content)


async def test_what_is_anothers_is_as_if_it_were_not(guarded: httpx.AsyncClient, redis: Redis) -> None:
    mine, theirs = await bearer(redis, "a"), await bearer(redis, "b")
    ids = await owned(guarded, mine) | {"key_id": (await ApiKeys(redis).list_keys())[0].id, "worker_id": "host:1-w1"}
    checked = 0
    for method, path in routes(guarded):
        names = re.findall(r"{(\w+_id)}", path)
        if not names:
            continue
        (name,) = names
        body = BODIES.get(path.rpartition("/")[2], {}) if method == "POST" else None
        hers = await guarded.request(method, path.format(**ids), json=body, headers=theirs)
        unknown = {name: ids[name][:-4] + "0000"}
        nobodys = await guarded.request(method, path.format(**unknown), json=body, headers=theirs)
        assert comparable(hers) == comparable(nobodys), (method, path)
        is_admins = path.startswith(("/v1/keys/", "/v1/workers/"))  # whoever may not administer them learns of none
        assert hers.status_code == (403 if is_admins else 404), (method, path)
        checked += 1
    assert checked >= 11
    for path, n in (("/v1/jobs", 2), ("/v1/files", 1), ("/v1/batches", 1)):
        assert (await guarded.get(path, headers=theirs)).json()["data"] == []
        assert len((await guarded.get(path, headers=mine)).json()["data"]) == n
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/v1/jobs", {"prompt": "x", "images": ["FILE"]}),
        ("/v1/batches", {"input_file_id": "FILE", "endpoint": "/v1/chat/completions", "completion_window": "24h"}),
        ("/v1/responses", {"model": "qwen-vl", "input": [{"role": "user", "content": [FILE_PART]}]}),
    ]
    for path, body in bodies:
        answers = [
            await guarded.post(path, json=json.loads(json.dumps(body).replace("FILE", file)), headers=theirs)
            for file in (ids["file_id"], "file-nope")
        ]
        assert comparable(answers[0]) == comparable(answers[1])
        assert answers[0].status_code == 400


async def test_a_keys_limits_hold(guarded: httpx.AsyncClient, redis: Redis) -> None:
    one = await bearer(redis, "one", max_queued=1)
    assert (await guarded.post("/v1/jobs", json=ASK, headers=one)).status_code == 202
    refused = await guarded.post("/v1/jobs", json=ASK, headers=one)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert refused.headers["retry-after"] == "5"

    minute, answers = -1, list[httpx.Response]()
    while minute != (await redis.time())[0] // 60:  # else they touched two
        minute, few = (await redis.time())[0] // 60, await bearer(redis, "few", max_requests=2)
        answers = [await guarded.get("/v1/jobs", headers=few) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert [answer.headers["x-ratelimit-limit-requests"] for answer in answers[:2]] == ["2", "2"]


async def test_only_the_limits_that_are_named_change(redis: Redis) -> None:
    keys = ApiKeys(redis)
    key, _ = await keys.create("a", max_requests=9, max_queued=8, weight=2.5)

    assert await keys.limit(key.id, max_running=4)
    assert await keys.limit(key.id, max_queued=7)

    (listed,) = await keys.list_keys()
    assert listed == ApiKey(key.id, "a", key.created_at, max_requests=9, max_queued=7, max_running=4, weight=2.5)
    scripts_see = await redis.hgetall(f"sightline:{{sightline}}:owner:{key.id}")  # type: ignore[misc]
    assert {name: float(scripts_see[name]) for name in ("max_queued", "max_running", "weight")} == {
        "max_queued": 7,
        "max_running": 4,
        "weight": 2.5,
    }
    assert not await keys.limit("key_no", max_queued=1)
    assert await keys.list_keys() == [listed]


async def test_a_key_of_an_older_version_is_read(redis: Redis) -> None:
    keys = ApiKeys(redis)
    key, secret = await keys.create("a", max_queued=8)
    await redis.hdel(f"sightline:{{sightline}}:key:{key.id}", "weight")  # type: ignore[misc]

    assert await keys.check(secret) == key


async def test_the_command_makes_limits_and_lists(settings: Settings) -> None:
    async def keys(*command: str) -> subprocess.CompletedProcess[str]:
        return await run("keys", *command, SIGHTLINE_REDIS_URL=settings.redis_url)

    none = await keys("list")
    assert (none.stdout, none.stderr) == ("", "no keys yet; `sightline keys create NAME` makes one\n")
    made = await keys("create", "a", "--weight", "2", "--queued", "9", "--admin")
    key_id = made.stderr.split()[0]
    limited = await keys("limit", key_id, "--running", "3")
    listed, as_json = await keys("list"), await keys("list", "--json")

    assert (limited.returncode, limited.stdout) == (0, ""), limited.stderr
    assert listed.stdout.endswith("  a  (may administer, 9 queued, 3 running, weight 2)\n")
    assert (json.loads(as_json.stdout)["max_running"], json.loads(as_json.stdout)["admin"]) == (3, True)
    nobody = await keys("limit", "key_no", "--running", "3")
    assert (nobody.returncode, "no key by that id" in nobody.stderr) == (1, True)
    nothing = await keys("limit", key_id)
    assert (nothing.returncode, "name a limit" in nothing.stderr) == (1, True)


def test_keys_are_required_where_strangers_can_call() -> None:
    asked = [({}, False), ({"host": "0.0.0.0"}, True), ({"host": "0.0.0.0", "require_keys": False}, False)]
    for given, required in [*asked, ({"require_keys": True}, True)]:
        assert make_settings(**given).keys_required is required
