"""Batches at their edges: inputs that go, lines nobody can read, leases that are lost, storage that is away, many owners."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from openai import AsyncOpenAI, ConflictError, RateLimitError
from redis.asyncio import Redis
from structlog.testing import capture_logs

from api.batches import storage as batch_storage
from api.batches.runner import MAX_RUNS_OF_OWNER
from api.json_body import MAX_DEPTH
from shared.blobs import Blobs
from shared.settings import ROOT, Settings
from shared.store.api_keys import ApiKeys
from shared.store.connection import Client
from shared.store.jobs import JobStore
from tests.integration.conftest import Worker, n_queued, stored_files, until
from tests.integration.served import client_of, running_batches, served
from tests.integration.test_batches import ended, line, lines_of, some_done, start

WHOLE = {f"c{n}" for n in range(30)}


def few(settings: Settings, **given: Any) -> Settings:
    return settings.model_copy(update={"max_num_seqs": 4, "batch_window": 8} | given)


async def told(client: AsyncOpenAI, batch: Any) -> Counter[str]:
    """Count the lines that both files tell of."""
    rows = [*await lines_of(client, batch.output_file_id), *await lines_of(client, batch.error_file_id)]
    return Counter(row["custom_id"] for row in rows)


# --- an input that goes, or cannot be read ---


async def test_an_input_is_not_deleted_while_its_batch_runs(settings: Settings) -> None:
    async with Worker(few(settings)).running(), served(few(settings)) as url, client_of(url) as client:
        batch = await start(client, [line(n, "!slow 0.1") for n in range(12)])
        with pytest.raises(ConflictError) as refused:
            await client.files.delete(batch.input_file_id)
        assert refused.value.code == "file_in_use"
        batch = await until(lambda: ended(client, batch.id))
        assert await told(client, batch) == Counter({f"c{n}": 1 for n in range(12)})
        assert (await client.files.delete(batch.input_file_id)).deleted


async def test_an_input_that_is_lost_fails_the_batch_and_what_is_done_is_kept(settings: Settings) -> None:
    wide = [line(n, "!slow 0.1", user="p" * 90_000) for n in range(30)]  # so that it is read in pieces
    async with Worker(few(settings)).running(), served(few(settings)) as url, client_of(url) as client:
        batch = await start(client, wide)
        await until(lambda: some_done(client, batch.id))
        await Blobs(settings.blobs_url).delete(f"uploads/{batch.input_file_id}")
        batch = await until(lambda: ended(client, batch.id))
        output = await lines_of(client, batch.output_file_id)

    assert (batch.status, batch.errors.data[0].code) == ("failed", "input_file_gone")
    assert "was not begun" in batch.errors.data[0].message
    assert 5 <= len(output) == batch.request_counts.completed < 30


HALF = "\\ud800"
UNREADABLE = {
    "brackets without end": (["[" * 100_000], "invalid_json_line"),
    "objects without end": (['{"a":' * 100_000 + "1" + "}" * 100_000], "invalid_json_line"),
    "a little too deep": ([line(1, tools="X").replace('"X"', "[" * MAX_DEPTH + "]" * MAX_DEPTH)], "invalid_json_line"),
    "half a pair in the custom_id": ([line(1).replace("c1", HALF), line(2)], "invalid_json_line"),
    "half a pair in the method": ([line(1).replace("POST", HALF)], "invalid_json_line"),
    "half a pair in the url": ([line(1).replace("/v1/chat", HALF)], "invalid_json_line"),
    "half a pair in the text": ([line(1, "HALF").replace("HALF", HALF)], "invalid_json_line"),
    "half a pair in a name": ([line(1, HALF=1).replace("HALF", HALF)], "invalid_json_line"),
    "an endless custom_id": ([line(1).replace("c1", "c" * 600)], "invalid_request"),
    "a list": (["[1]"], "invalid_request"),
    "a number": (["1"], "invalid_request"),
    "a huge number": (["1" * 5000], "invalid_json_line"),
}


async def test_a_line_that_cannot_be_read_is_told_by_its_number(client: AsyncOpenAI) -> None:
    ids = {name: (await start(client, [line(100), *rows])).id for name, (rows, _) in UNREADABLE.items()}
    for name, batch_id in ids.items():
        batch = await until(lambda batch_id=batch_id: ended(client, batch_id))
        error = batch.errors.data[0]
        assert (name, batch.status, error.code, error.line) == (name, "failed", UNREADABLE[name][1], 2)


async def test_bytes_that_are_no_text_are_told_too(client: AsyncOpenAI) -> None:
    file = await client.files.create(file=("in.jsonl", line(1).encode() + b"\n\xed\xa0\x80\xff"), purpose="batch")
    how: Any = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = await client.batches.create(input_file_id=file.id, **how)
    batch = await until(lambda: ended(client, batch.id))

    assert (batch.status, batch.errors.data[0].line) == ("failed", 2)


async def test_a_record_that_is_damaged_hurts_no_other_batch(client: AsyncOpenAI, worker: Worker, redis: Redis) -> None:
    assert worker
    await redis.hset("sightline:{sightline}:batch:batch_1", mapping={"owner": "local", "status": "validating"})  # type: ignore[misc]
    await redis.set("sightline:{sightline}:batch:batch_3", "x")
    await redis.zadd("sightline:{sightline}:batches_open", {"batch_1": 0, "batch_2": 0, "batch_3": 0})
    await redis.zadd("sightline:{sightline}:batches:local", {"batch_1": 1})
    batch = await start(client, [line(1)])

    assert (await until(lambda: ended(client, batch.id))).status == "completed"
    assert await redis.zmscore("sightline:{sightline}:batches_open", ["batch_2", "batch_3"]) == [None, None]
    assert [listed.id for listed in (await client.batches.list()).data] == [batch.id]


# --- runners that change ---


@pytest.mark.parametrize("how", ["cancelled", "expired"])
async def test_a_batch_that_stops_while_nobody_runs_it_loses_no_line(settings: Settings, redis: Redis, how: str) -> None:
    settings = few(settings)
    async with Worker(settings).running() as worker, served(settings, batches=False) as url, client_of(url) as client:
        async with running_batches(settings):
            batch_id = (await start(client, [line(n) for n in range(6)] + [line(n, "!slow 60") for n in range(6, 30)])).id
            await until(lambda: some_done(client, batch_id))
        assert await redis.hlen(f"sightline:{{sightline}}:batch:{batch_id}:flight") > 0  # type: ignore[misc]
        if how == "cancelled":
            await client.batches.cancel(batch_id)
        else:
            await redis.hset(f"sightline:{{sightline}}:batch:{batch_id}", "expires_at", 1)  # type: ignore[misc]
        async with running_batches(settings):
            batch = await until(lambda: ended(client, batch_id))
        errors = await lines_of(client, batch.error_file_id)

        assert batch.status == how
        assert await told(client, batch) == dict.fromkeys(WHOLE, 1)
        assert {row["error"]["code"] for row in errors} == {f"batch_{how}"}
        await until(lambda: nothing_runs(redis))
        assert worker.engine.running == 0


async def nothing_runs(redis: Redis) -> bool:
    counts = await JobStore(cast("Client", redis)).counts()
    return not counts["queued"] + counts["running"]


async def test_a_runner_that_loses_its_lease_leaves_its_lines_to_the_next(settings: Settings, redis: Redis) -> None:
    settings = few(settings)
    async with Worker(settings).running() as worker, served(settings, batches=False) as url, client_of(url) as client:
        async with running_batches(settings), running_batches(settings):
            batch_id = (await start(client, [line(n, "!slow 0.2") for n in range(30)])).id
            tokens = set()
            for n in (3, 10, 20):
                await until(lambda n=n: n_done(client, batch_id, n))
                tokens.add(await redis.hget(f"sightline:{{sightline}}:batch:{batch_id}", "token"))  # type: ignore[misc]
                await redis.zadd(
                    "sightline:{sightline}:batches_open", {batch_id: 1}
                )  # as when it was stopped for longer than its lease
            batch = await until(lambda: ended(client, batch_id), timeout_s=60)

        assert batch.request_counts.model_dump() == {"total": 30, "completed": 30, "failed": 0}
        assert await told(client, batch) == dict.fromkeys(WHOLE, 1)
        assert len(worker.engine.finished) == len(set(worker.engine.finished)) == 30
        assert len(tokens) == 3
        assert not {name for name in stored_files(settings) if name.startswith("batches/")}


async def n_done(client: AsyncOpenAI, batch_id: str, n: int) -> bool:
    return (await client.batches.retrieve(batch_id)).request_counts.completed >= n


async def test_the_runners_process_hands_back_what_it_runs(settings: Settings, redis: Redis) -> None:
    own = {"SIGHTLINE_REDIS_URL": settings.redis_url, "SIGHTLINE_BLOBS_URL": settings.blobs_url}
    async with served(settings, batches=False) as url, client_of(url) as client:
        batch_id = (await start(client, [line(1)])).id
        process = subprocess.Popen([sys.executable, "-m", "api.batches.main"], cwd=ROOT, env={**os.environ, **own})  # noqa: ASYNC220
        try:
            await until(lambda: redis.hget(f"sightline:{{sightline}}:batch:{batch_id}", "token"), timeout_s=60)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 20) == 0
        finally:
            process.kill()
            process.wait()
        seconds, _ = await redis.time()

        assert await redis.zscore("sightline:{sightline}:batches_open", batch_id) <= (seconds + 1) * 1000
        assert await redis.hget(f"sightline:{{sightline}}:batch:{batch_id}", "token") is None  # type: ignore[misc]


# --- storage that cannot be written ---


async def test_a_batch_waits_for_its_storage_and_says_why(
    settings: Settings, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_storage, "FIRST_PAUSE_S", 0.1)
    in_the_way = f"{settings.blobs_url}/batches"
    with capture_logs() as logs:
        async with served(settings) as url, client_of(url) as client:
            os.mknod(in_the_way)  # no folder can be made here now
            batch_id = (await start(client, [line(n) for n in range(3)])).id

            async def reason() -> Any:
                batch = await client.batches.retrieve(batch_id)
                return batch.errors and (batch.status, batch.errors.data[0])

            status, error = await until(reason)
            await asyncio.sleep(1)
            os.remove(in_the_way)  # noqa: PTH107  # at once, in front of nobody
            batch = await until(lambda: ended(client, batch_id))

            assert worker
            assert (status, error.code) == ("finalizing", "waiting_for_storage")
            assert settings.blobs_url not in error.message
            assert (batch.status, batch.errors) == ("completed", None)
            assert await told(client, batch) == Counter(("c0", "c1", "c2"))
    told_in_log = [entry for entry in logs if entry["event"].startswith("batch.w") or "exc_info" in entry]
    assert [entry["event"] for entry in told_in_log] == ["batch.waits"]
    assert settings.blobs_url in told_in_log[0]["error"]


# --- owners beside each other ---


async def test_lines_wait_without_being_stored_again(settings: Settings, redis: Redis) -> None:
    """No worker runs: two of the key's three places are the batch's lines, and the third is still a chat's."""
    settings = settings.model_copy(update={"require_keys": True, "max_open_batches": 3})
    _, secret = await ApiKeys(redis).create("few", max_queued=3)
    async with served(settings) as url, client_of(url).with_options(api_key=secret) as client:
        for _ in range(3):
            await start(client, [line(n) for n in range(20)])
        with pytest.raises(RateLimitError) as refused:
            await start(client, [line(1)])
        assert refused.value.code == "too_many_batches"
        await until(lambda: is_filled(redis, 2))
        before = stored_pictures(settings)
        await asyncio.sleep(2)

        assert await n_queued(redis, "bulk") == 2
        assert stored_pictures(settings) == before
        assert len(before) == 2
        async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {secret}"}) as chats:
            asked = {"model": "qwen-vl", "messages": [{"role": "user", "content": "x"}]}
            with suppress(httpx.ReadTimeout):  # nobody answers it, but it is accepted
                answer = await chats.post("/v1/chat/completions", json=asked, timeout=1)
                pytest.fail(f"the chat was refused: {answer.text}")


def stored_pictures(settings: Settings) -> dict[str, int]:
    """Give the files of inline pictures, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in Path(settings.blobs_url, "inline").iterdir()}


async def is_filled(redis: Redis, n: int) -> bool:
    return await n_queued(redis, "bulk") == n


async def test_nobodys_batches_keep_anothers_waiting(settings: Settings, redis: Redis) -> None:
    settings = settings.model_copy(update={"require_keys": True})
    secrets = [(await ApiKeys(redis).create(name))[1] for name in ("many", "one")]
    async with served(settings, batches=False) as url, client_of(url) as client:
        many, one = (client.with_options(api_key=secret) for secret in secrets)
        for _ in range(MAX_RUNS_OF_OWNER + 3):
            await start(many, [line(1)])
        batch_id = (await start(one, [line(1)])).id
        async with running_batches(settings):
            await until(lambda: redis.hget(f"sightline:{{sightline}}:batch:{batch_id}", "in_progress_at"))
            statuses = Counter([batch.status async for batch in many.batches.list()])

    assert statuses == {"in_progress": MAX_RUNS_OF_OWNER, "validating": 3}
