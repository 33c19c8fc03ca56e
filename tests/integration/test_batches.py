"""Batches: each line answered once, whoever dies; what is done is kept on cancel and expiry."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import AsyncOpenAI
from redis.asyncio import Redis

from api.error_responses import OPENAI_CODES
from shared.settings import Settings
from tests.integration.conftest import Site, Worker, until
from tests.integration.served import client_of, served
from tests.integration.test_routes import HOSTILE, as_chat
from tests.integration.test_sender import send
from tests.media import data_url, picture
from worker.webhooks.sender import Sender


def line(number: int, prompt: str = "x", **given: Any) -> str:
    content = [
        {"type": "image_url", "image_url": {"url": data_url(picture())}},
        {"type": "text", "text": f"{prompt} 图{number}"},
    ]
    body = {"model": "qwen-vl", "messages": [{"role": "user", "content": content}]} | given
    return json.dumps({"custom_id": f"c{number}", "method": "POST", "url": "/v1/chat/completions", "body": body})


async def start(client: AsyncOpenAI, lines: list[str]) -> Any:
    file = await client.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"相册": "夏天"}
    )


async def ended(client: AsyncOpenAI, batch_id: str) -> Any:
    batch = await client.batches.retrieve(batch_id)
    return batch if batch.status in {"completed", "failed", "expired", "cancelled"} else None


async def lines_of(client: AsyncOpenAI, file_id: str | None) -> list[Any]:
    return [json.loads(row) for row in (await client.files.content(file_id)).text.splitlines()] if file_id else []


async def test_every_line_is_answered_once(client: AsyncOpenAI, worker: Worker) -> None:
    batch = await start(client, [*(line(n) for n in range(12)), line(12, "!long"), line(13, n=17), line(14, model="other")])
    assert (batch.object, batch.request_counts.total, batch.metadata) == ("batch", 0, {"相册": "夏天"})

    batch = await until(lambda: ended(client, batch.id))

    assert batch.status == "completed"
    assert batch.request_counts.model_dump() == {"total": 15, "completed": 12, "failed": 3}
    output = await lines_of(client, batch.output_file_id)
    assert sorted(row["custom_id"] for row in output) == sorted(f"c{n}" for n in range(12))
    for row in output:
        assert row["response"]["body"]["choices"][0]["message"]["content"].endswith(f"x 图{row['custom_id'][1:]}")
    errors = {row["custom_id"]: row["response"] for row in await lines_of(client, batch.error_file_id)}
    assert {name: answer["status_code"] for name, answer in errors.items()} == {"c12": 400, "c13": 400, "c14": 404}
    assert errors["c12"]["body"]["error"]["code"] == "context_length_exceeded"
    assert [b.id async for b in client.batches.list()] == [batch.id]


async def test_references_and_texts_of_lines_pass_the_gate(client: AsyncOpenAI) -> None:
    rows = [
        {"custom_id": f"c{n}", "method": "POST", "url": "/v1/chat/completions", "body": as_chat(reference, text)["json"]}
        for n, (reference, text, _) in enumerate(HOSTILE)
    ]
    batch = await start(client, [json.dumps(row) for row in rows])
    batch = await until(lambda: ended(client, batch.id))

    errors = {row["custom_id"]: row["response"] for row in await lines_of(client, batch.error_file_id)}
    for n, (*hostile, code) in enumerate(HOSTILE):
        answer = errors[f"c{n}"]
        assert (answer["status_code"] // 100, answer["body"]["error"]["code"]) == (4, OPENAI_CODES.get(code, code)), hostile


BAD = {
    "no json": (["{"], "invalid_json_line"),
    "twice": ([line(1), line(1)], "duplicate_custom_id"),
    "other url": ([line(1).replace("chat/completions", "embeddings")], "invalid_url"),
    "nothing": ([""], "empty_file"),
}


@pytest.mark.parametrize("name", BAD)
async def test_an_input_that_is_not_valid_fails_the_batch(client: AsyncOpenAI, name: str) -> None:
    lines, code = BAD[name]
    batch = await until(lambda: start(client, lines))
    batch = await until(lambda: ended(client, batch.id))

    assert (batch.status, batch.errors.data[0].code) == ("failed", code)


async def test_a_gateway_that_dies_is_followed_and_nothing_runs_twice(settings: Settings, redis: Redis) -> None:
    async with Worker(settings.model_copy(update={"max_num_seqs": 4})).running() as worker:
        async with served(settings) as url, client_of(url) as client:
            batch_id = (await start(client, [line(n, "!slow 0.1") for n in range(40)])).id
            await until(lambda: some_done(client, batch_id))
        await redis.zadd("sightline:{sightline}:batches_open", {batch_id: 1})  # as when the lease of a killed one has ended
        async with served(settings) as url, client_of(url) as client:
            batch = await until(lambda: ended(client, batch_id), timeout_s=60)
            output = await lines_of(client, batch.output_file_id)

    assert batch.request_counts.model_dump() == {"total": 40, "completed": 40, "failed": 0}
    assert sorted(row["custom_id"] for row in output) == sorted(f"c{n}" for n in range(40))
    assert len(worker.engine.finished) == len(set(worker.engine.finished)) == 40


async def some_done(client: AsyncOpenAI, batch_id: str) -> bool:
    return (await client.batches.retrieve(batch_id)).request_counts.completed >= 5


@pytest.mark.parametrize("how", ["cancelled", "expired"])
async def test_what_is_done_is_kept(settings: Settings, redis: Redis, how: str) -> None:
    settings = settings.model_copy(update={"max_num_seqs": 4, "batch_window": 8})
    async with Worker(settings).running(), served(settings) as url, client_of(url) as client:
        batch_id = (await start(client, [line(n) for n in range(6)] + [line(n, "!slow 60") for n in range(6, 30)])).id
        await until(lambda: some_done(client, batch_id))
        if how == "cancelled":
            assert (await client.batches.cancel(batch_id)).status == "cancelling"
        else:
            await redis.hset(f"sightline:{{sightline}}:batch:{batch_id}", "expires_at", 1)  # type: ignore[misc]
        batch = await until(lambda: ended(client, batch_id), timeout_s=60)
        output, errors = await lines_of(client, batch.output_file_id), await lines_of(client, batch.error_file_id)

    assert batch.status == how
    assert 5 <= len(output) <= 6
    assert sorted(row["custom_id"] for row in [*output, *errors]) == sorted(f"c{n}" for n in range(30))
    assert {row["error"]["code"] for row in errors} == {f"batch_{how}"}


async def test_the_end_of_a_batch_is_told_as_openai_tells_it(settings: Settings, redis: Redis, site: Site) -> None:
    kinds: Any = ["batch.completed", "batch.failed", "batch.cancelled", "batch.expired"]
    async with Worker(settings).running(), served(settings) as url, client_of(url) as client:
        endpoint = await client.webhooks.create(name="ends", url=f"{site.url}/ends", event_types=kinds)
        deaf = await client.webhooks.create(name="jobs", url=f"{site.url}/jobs", event_types=["batch.expired"])
        expected = {}
        for kind, rows in zip(kinds, ([line(1)], ["{"], [line(1, "!slow 60")], [line(1, "!slow 60")]), strict=True):
            batch_id = (await start(client, rows)).id
            expected[batch_id] = kind
            if kind == "batch.cancelled":
                await client.batches.cancel(batch_id)
            if kind == "batch.expired":
                await redis.hset(f"sightline:{{sightline}}:batch:{batch_id}", "expires_at", 1)  # type: ignore[misc]
        for batch_id in expected:
            await until(lambda batch_id=batch_id: ended(client, batch_id), timeout_s=60)
        sender = Sender(settings)
        await send(sender)

        told = [a for a in site.asked if a.path == "/ends"]
        events: list[Any] = [client.webhooks.unwrap(a.body, a.headers, secret=endpoint.signing_secret) for a in told]
        assert {event.data.id: event.type for event in events} == expected
        assert len(events) == len(expected)
        assert {type(event).__name__ for event in events} == {
            f"Batch{kind.removeprefix('batch.').title()}WebhookEvent" for kind in kinds
        }
        assert [event.id for event in events] == [a.headers["webhook-id"] for a in told]
        assert [json.loads(a.body)["type"] for a in site.asked if a.path == "/jobs"] == ["batch.expired"]

        late = await client.webhooks.create(name="late", url=f"{site.url}/late", event_types=["batch.failed"])
        for hook, n_due in ((late, 1), (deaf, 0)):
            answer: Any = await client.post(f"/webhook_endpoints/{hook.id}/recover", body={"since": 0}, cast_to=object)
            assert answer["deliveries"] == n_due
        await sender.close()
