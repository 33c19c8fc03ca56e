"""Two models on one Redis, as in any change of the model: nothing is answered under another model's name."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import httpx
import pytest
from openai import AsyncOpenAI

from shared.settings import Settings
from shared.store.jobs import JobStore
from shared.store.workers import WorkerRegistry
from tests.claims import next_claims
from tests.integration.conftest import Worker, bells, gateway_for, until
from tests.integration.test_batches import ended, line, lines_of, start
from tests.integration.test_chat import ask
from tests.integration.test_job_store import Records
from tests.media import data_url, picture

A, B = "qwen-vl", "other-vl"  # the first is the gateway's own
ASK = {"prompt": "What?", "images": [data_url(picture())]}


def serving(settings: Settings, model: str) -> Worker:
    return Worker(settings.model_copy(update={"served_model_name": model}))


@pytest.fixture
def records(store: JobStore, settings: Settings) -> Records:
    return Records(store, settings)


async def test_each_model_answers_for_itself(client: AsyncOpenAI, url: str, settings: Settings, store: JobStore) -> None:
    async with serving(settings, A).running(), serving(settings, B).running(), httpx.AsyncClient(base_url=url) as gateway:
        listed = await until(lambda: _listed(client, 2))
        batch = await start(client, [line(n, model=[A, B][n % 2]) for n in range(6)])
        chats = [client.chat.completions.create(model=[A, B][n % 2], messages=ask()) for n in range(12)]
        responses = [client.responses.create(model=[A, B][n % 2], input="What?") for n in range(4)]
        named = [gateway.post("/v1/jobs", json=ASK | {"model": B}, headers={"prefer": "wait=20"}) for _ in range(4)]
        nameless = [gateway.post("/v1/jobs", json=ASK, headers={"prefer": "wait=20"}) for _ in range(4)]
        answered = await asyncio.gather(*chats, *responses)
        jobs = [answer.json() for answer in await asyncio.gather(*named, *nameless)]
        done = await until(lambda: ended(client, batch.id))

    assert listed == [B, A]
    records = [await store.get(answer.id.replace("chatcmpl-", "job_").replace("resp_", "job_")) for answer in answered]
    for n, (answer, record) in enumerate(zip(answered, records, strict=True)):
        assert record.output is not None
        assert [answer.model, record.model, record.output.engine.model, record.attempt] == [*[[A, B][n % 2]] * 3, 1]
    assert [(job["model"], job["output"]["engine"]["model"], job["attempt"]) for job in jobs] == [(B, B, 1)] * 4 + [
        (A, A, 1)
    ] * 4
    for row in await lines_of(client, done.output_file_id):
        body, wanted = row["response"]["body"], [A, B][int(row["custom_id"][1:]) % 2]
        assert (body["model"], (await _engine_of(store, body["id"]))) == (wanted, wanted)


async def _engine_of(store: JobStore, chat_id: str) -> str:
    output = (await store.get(chat_id.replace("chatcmpl-", "job_"))).output
    assert output is not None
    return output.engine.model


async def _listed(client: AsyncOpenAI, n: int) -> list[str] | None:
    listed = [model.id async for model in client.models.list()]
    return listed if len(listed) == n else None


async def test_a_job_waits_quietly_where_only_the_wrong_model_lives(settings: Settings, store: JobStore) -> None:
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(gateway_for(settings))
        await stack.enter_async_context(serving(settings, B).running())
        job_id = (await gateway.post("/v1/jobs", json=ASK)).json()["id"]

        await asyncio.sleep(0.5)  # five rescues
        job = await store.get(job_id)
        assert (job.status, job.attempt) == ("queued", 0)
        assert [await bells(store.redis, model) for model in (A, B)] == [0, 0]

        await stack.enter_async_context(serving(settings, A).running())
        end = (await gateway.get(f"/v1/jobs/{job_id}?wait=20")).json()

    assert (end["status"], end["attempt"], end["output"]["engine"]["model"]) == ("succeeded", 1, A)


async def test_whoever_names_a_model_gets_it_or_is_told_what_there_is(settings: Settings, store: JobStore) -> None:
    registry = WorkerRegistry(store.redis)
    await registry.heartbeat("w1", {"name": "w1", "phase": "ready", "model": "third-vl"}, ttl_s=60)
    await registry.heartbeat("w2", {"name": "w2", "phase": "loading", "model": B}, ttl_s=60)
    async with gateway_for(settings) as gateway:
        told = {name: await gateway.post("/v1/jobs", json=ASK | {"model": name}) for name in (A, B, "third-vl", "no-vl")}
        read = {name: (await gateway.get(f"/v1/models/{name}")).status_code for name in told}
        listed = [model["id"] for model in (await gateway.get("/v1/models")).json()["data"]]
        ready = (await gateway.get("/readyz")).json()

    assert {name: answer.status_code for name, answer in told.items()} == {A: 202, B: 503, "third-vl": 202, "no-vl": 404}
    assert read == {A: 200, B: 503, "third-vl": 200, "no-vl": 404}
    assert listed == ["third-vl"]
    for name, code in ((B, "model_not_ready"), ("no-vl", "model_not_found")):
        error = told[name].json()["error"]
        assert (error["code"], error["param"]) == (code, "model")
        assert "third-vl" in error["message"]
    assert int(told[B].headers["retry-after"]) > 0
    assert A in ready["warnings"][0]  # jobs without a name will wait


async def test_a_worker_gets_only_jobs_of_its_model(records: Records) -> None:
    foreign = [await records.submit(served_model_name=B) for _ in range(3)]
    own = await records.submit()

    assert [claim.job_id for claim in await next_claims(records.store, 9)] == [own]
    assert [claim.job_id for claim in await next_claims(records.store, 9, model=B)] == foreign
