"""The gateway: jobs are accepted, read, waited for, listed and cancelled."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest
import structlog
from redis.asyncio import Redis

from shared.aio import Chores
from shared.errors import EngineFailed
from shared.jobs import EngineInfo, JobStatus, Output, Stage, Usage
from shared.sampling_params import Sampling
from shared.settings import Settings
from shared.store.api_keys import ApiKeys
from shared.store.check import StoreCheck
from shared.store.jobs import JobStore
from shared.store.workers import WorkerRegistry
from tests.claims import claim_job, next_claims
from tests.conftest import make_settings
from tests.integration.conftest import app_of, gateway_for, queued, stored_files, until
from tests.media import RED, clip, data_url, picture

OUTPUT = Output(
    text="一个红色的圆。",
    finish_reason="stop",
    usage=Usage(prompt_tokens=90, vision_tokens=64, output_tokens=6),
    engine=EngineInfo(name="double", version="1", model="qwen-vl"),
)
ASK: dict[str, Any] = {"prompt": "请用中文描述一下这张图片", "images": [data_url(picture())]}


async def upload(gateway: httpx.AsyncClient, data: bytes, name: str = "猫.png") -> dict[str, Any]:
    answer = await gateway.post("/v1/files", files={"file": (name, data, "application/octet-stream")})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def submit(gateway: httpx.AsyncClient, body: dict[str, Any] | None = None, **headers: str) -> httpx.Response:
    answer = await gateway.post("/v1/jobs", json=body or ASK, headers={k.replace("_", "-"): v for k, v in headers.items()})
    assert answer.status_code in {200, 202}, answer.text
    return answer


async def test_what_a_job_was_asked_can_be_read_by_its_owner(settings: Settings, store: JobStore) -> None:
    secrets = [(await ApiKeys(store.redis).create(name))[1] for name in ("owner", "other")]
    owner, other = [{"authorization": f"Bearer {secret}"} for secret in secrets]
    async with gateway_for(settings.model_copy(update={"require_keys": True})) as gateway:
        file = (await gateway.post("/v1/files", files={"file": ("a.png", picture())}, headers=owner)).json()["id"]
        images = [data_url(picture()), file, "https://example.com/cat.png"]
        body = {"prompt": "描述", "images": images, "metadata": {"album": "夏"}, "sampling": {"max_tokens": 7}, "group": "g"}
        job_id = (await gateway.post("/v1/jobs", json=body, headers=owner)).json()["id"]

        asked = (await gateway.get(f"/v1/jobs/{job_id}/request", headers=owner)).json()

        assert [part.get("image") for part in asked["messages"][0]["content"]] == ["data:…", *images[1:], None]
        assert asked["messages"][0]["content"][-1] == {"type": "text", "text": "描述"}
        for name in ("metadata", "sampling", "group"):
            assert asked[name] == body[name]
        assert "webhook" not in asked
        assert (await gateway.get(f"/v1/jobs/{job_id}/request", headers=other)).status_code == 404


async def succeed(store: JobStore, job_id: str) -> None:
    claim = await claim_job(store, job_id, worker="w", lease_s=60)
    assert claim is not None
    assert await store.complete(claim, JobStatus.SUCCEEDED, output=OUTPUT, error=None)


async def test_a_job_is_accepted_stored_and_rung_for(gateway: httpx.AsyncClient, redis: Redis, settings: Settings) -> None:
    answer = await submit(gateway, ASK | {"metadata": {"相册": "夏天"}})

    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["object"], job["status"], job["attempt"], job["metadata"]) == ("job", "queued", 0, {"相册": "夏天"})
    assert job["urls"] == {
        "self": f"/v1/jobs/{job['id']}",
        "cancel": f"/v1/jobs/{job['id']}/cancel",
        "events": f"/v1/jobs/{job['id']}/events",
    }
    assert abs(job["created_at"] - time.time()) < 60
    assert (await gateway.get(answer.headers["location"])).json() == job
    assert await queued(redis) == [job["id"]]
    assert stored_files(settings) == {f"inline/{job['id']}-0"}


async def test_the_record_is_small_and_names_the_stored_file(gateway: httpx.AsyncClient, store: JobStore) -> None:
    job_id = (await submit(gateway)).json()["id"]

    claim = await claim_job(store, job_id, worker="w", lease_s=60)

    assert claim is not None
    (message,) = claim.request.messages
    assert [part.model_dump(exclude_none=True) for part in message.parts] == [
        {"type": "image", "image": f"blob:inline/{job_id}-0"},
        {"type": "text", "text": "请用中文描述一下这张图片"},
    ]


async def test_messages_keep_their_order_limits_and_system_text(gateway: httpx.AsyncClient, store: JobStore) -> None:
    first = (await upload(gateway, picture()))["id"]
    film = (await upload(gateway, clip([0, 255]), "film.mp4"))["id"]
    limits = {"min_pixels": 200_704, "max_pixels": 1_003_520}
    sampling = {"temperature": 0.0, "top_p": 1.0, "repetition_penalty": 1.0, "max_tokens": 7, "stop": ["。"], "seed": 3}
    user = [
        {"type": "image", "image": first} | limits,
        {"type": "text", "text": "Compare this"},
        {"type": "image", "image": data_url(picture())},
        {"type": "video", "video": film, "fps": 1.5},
        {"type": "text", "text": "with these."},
    ]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": user}]
    job_id = (await submit(gateway, {"messages": messages, "sampling": sampling, "model": "qwen-vl"})).json()["id"]

    claim = await claim_job(store, job_id, worker="w", lease_s=60)

    assert claim is not None
    system, stored = claim.request.messages
    assert [part.model_dump() for part in system.parts] == [{"type": "text", "text": "Be brief."}]
    wanted = [part | ({"image": f"blob:inline/{job_id}-1"} if n == 2 else {}) for n, part in enumerate(user)]
    assert [part.model_dump(exclude_none=True) for part in stored.parts] == wanted
    assert claim.request.sampling == Sampling.model_validate(sampling)


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("JPEG", "image/jpeg"), ("PNG", "image/png"), ("WEBP", "image/webp"), ("GIF", "image/gif")],
)
async def test_an_upload_is_told_by_its_content(
    name: str, media_type: str, gateway: httpx.AsyncClient, settings: Settings
) -> None:
    data = picture(image_format=name)

    stored = await upload(gateway, data, "film.mp4")

    assert stored["media_type"] == media_type
    assert (stored["bytes"], stored["filename"], stored["object"]) == (len(data), "film.mp4", "file")
    assert stored["expires_at"] - stored["created_at"] == settings.upload_ttl_s
    assert (await gateway.get(f"/v1/files/{stored['id']}")).json() == stored
    assert stored_files(settings) == {f"uploads/{stored['id']}"}


async def test_an_upload_serves_many_jobs(gateway: httpx.AsyncClient, settings: Settings) -> None:
    file_id = (await upload(gateway, picture()))["id"]

    for _ in range(3):
        await submit(gateway, {"prompt": "What?", "images": [file_id, file_id]})

    assert stored_files(settings) == {f"uploads/{file_id}"}


@pytest.mark.parametrize("url", ["https://example.com/cat.jpeg", "http://8.8.8.8:8080/cat?x=1"])
async def test_a_public_address_is_taken_and_not_yet_fetched(url: str, gateway: httpx.AsyncClient) -> None:
    assert (await submit(gateway, {"prompt": "What?", "images": [url]})).status_code == 202


async def test_an_unknown_job_is_not_found(gateway: httpx.AsyncClient) -> None:
    for method, path in (
        ("GET", "/v1/jobs/job_nope"),
        ("POST", "/v1/jobs/job_nope/cancel"),
        ("GET", "/v1/jobs/job_nope?wait=1"),
    ):
        answer = await gateway.request(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_a_job_past_its_retention_is_gone(gateway: httpx.AsyncClient, store: JobStore, redis: Redis) -> None:
    job_id = (await submit(gateway)).json()["id"]
    await succeed(store, job_id)
    await redis.delete(f"sightline:{{sightline}}:job:{job_id}")

    answer = await gateway.get(f"/v1/jobs/{job_id}")

    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "gone")


async def test_a_waiting_read_answers_when_the_job_ends(gateway: httpx.AsyncClient, store: JobStore) -> None:
    job_id = (await submit(gateway)).json()["id"]
    began = time.monotonic()
    waiting = [asyncio.create_task(gateway.get(f"/v1/jobs/{job_id}?wait=20")) for _ in range(20)]
    await asyncio.sleep(0.2)

    await succeed(store, job_id)

    answers = await asyncio.gather(*waiting)
    assert {(answer.status_code, answer.json()["status"]) for answer in answers} == {(200, "succeeded")}
    assert answers[0].json()["output"]["text"] == "一个红色的圆。"
    assert time.monotonic() - began < 4


async def test_a_waiting_read_gives_up_in_time(gateway: httpx.AsyncClient) -> None:
    job_id = (await submit(gateway)).json()["id"]
    began = time.monotonic()

    answer = await gateway.get(f"/v1/jobs/{job_id}?wait=0.3")

    assert answer.json()["status"] == "queued"
    assert 0.29 < time.monotonic() - began < 5


async def test_a_submit_can_wait_for_the_output(gateway: httpx.AsyncClient, store: JobStore, redis: Redis) -> None:
    waiting = asyncio.create_task(submit(gateway, Prefer="respond-async, wait=20"))
    (job_id,) = await until(lambda: queued(redis))
    await succeed(store, job_id)

    answer = await waiting

    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    assert answer.headers["preference-applied"] == "wait=20"


async def test_a_submit_that_waits_in_vain_is_accepted(gateway: httpx.AsyncClient) -> None:
    answer = await submit(gateway, Prefer="wait=0.2")

    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert answer.headers["preference-applied"] == "wait=0.2"


async def test_a_failed_job_says_why(gateway: httpx.AsyncClient, store: JobStore) -> None:
    job_id = (await submit(gateway)).json()["id"]
    claim = await claim_job(store, job_id, worker="w", lease_s=60)
    assert claim is not None
    await store.set_stages("w", [(claim, Stage.DECODING)])
    assert (await gateway.get(f"/v1/jobs/{job_id}")).json()["stage"] == "decoding"
    assert await store.complete(claim, JobStatus.FAILED, output=None, error=EngineFailed())

    job = (await gateway.get(f"/v1/jobs/{job_id}")).json()

    assert (job["status"], job["error"]["code"], job["output"]) == ("failed", "engine_failed", None)


async def test_the_same_key_gives_the_same_job(gateway: httpx.AsyncClient, redis: Redis, settings: Settings) -> None:
    first = await submit(gateway, Idempotency_Key="k1")
    again = await submit(gateway, Idempotency_Key="k1")

    assert first.json()["id"] == again.json()["id"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert await queued(redis) == [first.json()["id"]]
    assert stored_files(settings) == {f"inline/{first.json()['id']}-0"}


async def test_the_same_key_with_another_body_is_refused(gateway: httpx.AsyncClient, settings: Settings) -> None:
    first = await submit(gateway, Idempotency_Key="k1")

    answer = await gateway.post("/v1/jobs", json=ASK | {"prompt": "Other"}, headers={"idempotency-key": "k1"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert answer.headers["x-should-retry"] == "false"
    assert stored_files(settings) == {f"inline/{first.json()['id']}-0"}


async def test_the_order_of_fields_does_not_make_another_body(gateway: httpx.AsyncClient) -> None:
    first = await submit(gateway, ASK, Idempotency_Key="k1")
    again = await submit(gateway, dict(reversed(ASK.items())), Idempotency_Key="k1")

    assert first.json()["id"] == again.json()["id"]


async def test_many_submits_of_one_key_at_once_make_one_job(
    gateway: httpx.AsyncClient, redis: Redis, settings: Settings
) -> None:
    answers = await asyncio.gather(*(submit(gateway, Idempotency_Key="k1") for _ in range(20)))

    (job_id,) = {answer.json()["id"] for answer in answers}
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 19
    assert await queued(redis) == [job_id]
    assert stored_files(settings) == {f"inline/{job_id}-0"}


async def test_a_queued_job_is_cancelled(gateway: httpx.AsyncClient, store: JobStore) -> None:
    job_id = (await submit(gateway)).json()["id"]

    answer = await gateway.post(f"/v1/jobs/{job_id}/cancel")

    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert answer.json()["error"]["code"] == "cancelled"
    assert await claim_job(store, job_id, worker="w", lease_s=60) is None


async def test_a_job_that_ended_cannot_be_cancelled(gateway: httpx.AsyncClient, store: JobStore) -> None:
    job_id = (await submit(gateway)).json()["id"]
    await succeed(store, job_id)

    answer = await gateway.post(f"/v1/jobs/{job_id}/cancel")

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "already_final")
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["job"] == (await gateway.get(f"/v1/jobs/{job_id}")).json()
    assert answer.json()["job"]["status"] == "succeeded"


async def test_jobs_are_listed_in_pages(gateway: httpx.AsyncClient) -> None:
    empty = (await gateway.get("/v1/jobs")).json()
    assert empty == {"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None}
    ids = [(await submit(gateway)).json()["id"] for _ in range(5)][::-1]

    first = (await gateway.get("/v1/jobs?limit=3")).json()
    rest = (await gateway.get(f"/v1/jobs?limit=3&after={first['last_id']}")).json()

    assert [job["id"] for job in first["data"]] == ids[:3]
    assert [job["id"] for job in rest["data"]] == ids[3:]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert (first["first_id"], rest["last_id"]) == (ids[0], ids[-1])


async def test_a_bell_that_cannot_be_hung_loses_no_job(gateway: httpx.AsyncClient, redis: Redis, store: JobStore) -> None:
    await store.hang_bell("qwen-vl", "a bell")
    assert await next_claims(store) == []  # its worker is hungry
    await redis.set("sightline:{sightline}:bells:jobs.qwen-vl", "no list")  # whatever keeps the message from being sent

    job_id = (await submit(gateway)).json()["id"]

    assert [claim.job_id for claim in await next_claims(store)] == [job_id]


async def test_a_full_queue_asks_to_come_back(settings: Settings) -> None:
    async with gateway_for(settings.model_copy(update={"max_queued": 1})) as gateway:
        first = (await submit(gateway)).json()["id"]

        answer = await gateway.post("/v1/jobs", json=ASK)

        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
        assert answer.json()["error"]["type"] == "rate_limit_error"
        assert int(answer.headers["retry-after"]) > 0
        assert stored_files(settings) == {f"inline/{first}-0"}


async def test_a_part_of_the_gateway_that_ends_is_told(
    settings: Settings, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner of all batches ended for good, and nothing said so."""
    again = asyncio.Event()

    async def check_safety(_: StoreCheck) -> None:
        if logged:
            again.set()
        raise ZeroDivisionError

    monkeypatch.setattr(StoreCheck, "check_safety", check_safety)
    monkeypatch.setattr(Chores, "RESTART_S", 0.01)
    await WorkerRegistry(store.redis).heartbeat("w1", {"name": "w1", "phase": "ready"}, ttl_s=60)
    with structlog.testing.capture_logs() as logged:
        async with gateway_for(settings) as gateway:
            await asyncio.wait_for(again.wait(), 10)
            answer = await gateway.get("/readyz")

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
    assert "check of Redis" in answer.json()["detail"]
    assert {entry["chore"] for entry in logged if entry["event"] == "chore.ended"} == {"check of Redis"}


async def test_the_service_says_how_it_is(gateway: httpx.AsyncClient, store: JobStore) -> None:
    assert (await gateway.get("/livez")).json() == {"status": "ok"}
    not_ready = await gateway.get("/readyz")
    assert (not_ready.status_code, not_ready.json()["error"]["code"]) == (503, "not_ready")
    assert "no worker is running" in not_ready.json()["detail"]

    facts = {"name": "gpu-host:4711-ab12", "phase": "loading", "gpus": [{"index": 0, "uuid": "GPU-1"}], "jobs_in_flight": 3}
    await WorkerRegistry(store.redis).heartbeat("w1", facts, ttl_s=60)
    detail = (await gateway.get("/readyz")).json()["detail"]
    assert "1 loading" in detail
    await WorkerRegistry(store.redis).heartbeat("w1", facts | {"phase": "ready"}, ttl_s=60)

    assert (await gateway.get("/readyz")).status_code == 200
    workers = await gateway.get("/v1/workers")
    assert workers.json()["data"] == [{"id": "worker_ab12", "phase": "ready", "gpus": 1, "jobs_in_flight": 3}]
    for secret in ("gpu-host", "4711", "GPU-1"):  # where a worker runs is nobody's who may submit a job
        assert secret not in detail + workers.text
    await submit(gateway)
    queue = (await gateway.get("/v1/queue")).json()
    assert queue.pop("oldest_age_s") < 60
    counts = {"queued": 1, "running": 0, "succeeded": 0, "failed": 0, "cancelled": 0, "load": 1}
    assert queue == counts | {"workers_ready": 1, "workers_starting": 0, "slots": 0, "backlog_s": None, "desired_workers": 1}


async def test_every_answer_carries_a_request_id_of_its_own(gateway: httpx.AsyncClient) -> None:
    answers = [await gateway.get(path) for path in ("/livez", "/livez", "/v1/jobs/job_nope", "/nowhere")]

    assert len({answer.headers["x-request-id"] for answer in answers}) == 4


async def test_a_crash_is_told_in_the_one_shape(gateway: httpx.AsyncClient) -> None:
    @app_of(gateway).get("/crash")
    async def crash() -> None:
        raise RuntimeError("a secret detail")

    answer = await gateway.get("/crash")

    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert "secret" not in answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["instance"] == f"urn:sightline:request:{answer.headers['x-request-id']}"


async def test_the_contract_is_published(gateway: httpx.AsyncClient) -> None:
    paths = (await gateway.get("/openapi.json")).json()["paths"]

    assert {"/v1/jobs", "/v1/jobs/{job_id}", "/v1/jobs/{job_id}/cancel", "/v1/files", "/livez", "/readyz"} <= set(paths)


async def test_values_that_json_cannot_hold_do_not_break_a_job(gateway: httpx.AsyncClient) -> None:
    """Python's JSON reader takes NaN and lone surrogates; what is accepted must be readable ever after."""
    for metadata in (
        '{"a": NaN}',
        '{"a": Infinity}',
        '{"a": "\\ud800"}',
        '{"\\ud800": 1}',
        '{"a": ' + "[" * 200 + "]" * 200 + "}",
    ):
        content = json.dumps(ASK)[:-1] + f', "metadata": {metadata}}}'
        answer = await gateway.post("/v1/jobs", content=content, headers={"content-type": "application/json"})

        assert answer.status_code in {202, 400}, (metadata[:40], answer.status_code, answer.text[:300])
        if answer.status_code == 202:
            assert (await gateway.get(answer.headers["location"])).status_code == 200, metadata[:40]
    assert (await gateway.get("/v1/jobs")).status_code == 200


async def test_a_large_batch_of_uploads_does_not_mix_files(gateway: httpx.AsyncClient, settings: Settings) -> None:
    sizes = [(20 + n, 30) for n in range(20)]
    pictures = [picture(RED, size) for size in sizes]

    stored = await asyncio.gather(*(upload(gateway, data) for data in pictures))

    assert [file["bytes"] for file in stored] == [len(data) for data in pictures]
    assert len(stored_files(settings)) == 20


async def test_an_upload_over_the_limit_leaves_nothing(settings: Settings, redis: Redis) -> None:
    async with gateway_for(settings.model_copy(update={"max_upload_bytes": 100_000})) as gateway:
        head = picture()
        for length in (100_001, 300_000):
            data = head + bytes(length - len(head))
            answer = await gateway.post("/v1/files", files={"file": ("a.png", data)})
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large"), length
            assert "that this service takes (SIGHTLINE_MAX_UPLOAD_BYTES)" in answer.json()["error"]["message"]

        await upload(gateway, head + bytes(100_000 - len(head)))

    assert len(stored_files(settings)) == 1
    assert len(await redis.keys("sightline:{sightline}:upload:*")) == 1


async def test_settings_of_a_gateway_are_its_own(settings: Settings) -> None:
    other = make_settings(redis_url=settings.redis_url, blobs_url=settings.blobs_url, served_model_name="other")

    async with gateway_for(other) as gateway:
        assert (await submit(gateway, ASK | {"model": "other"})).status_code == 202
        answer = await gateway.post("/v1/jobs", json=ASK | {"model": "qwen-vl"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
