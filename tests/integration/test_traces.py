"""Traces of jobs through real processes, as a collector on loopback gets them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI
from redis.asyncio import Redis

from shared.otel import OtelTracer
from shared.settings import Settings
from shared.store.jobs import JobStore
from shared.store.key_names import PREFIX
from tests.conftest import make_settings
from tests.integration.conftest import Reply, Site, Worker, until
from tests.integration.parts import part_of
from tests.integration.served import client_of
from tests.media import data_url, picture
from tests.otlp import Receiver, Told, receiving
from worker.attempt import tell_lost

pytestmark = pytest.mark.timeout(300)
#: Nothing of it may be in a trace: it stands in each prompt, answer and address of a medium or webhook that is sent here.
SECRET = "geheimnis-猫-7f3a"
ASCII_SECRET = "7f3a"
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STEPS = ["fetch", "decode", "wait", "render", "generate"]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        yield receiver


@pytest.fixture
def traced(settings: Settings) -> Settings:
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    return make_settings(**given | {"otel": True, "webhook_schedule_s": "0.1,0.1", "drain_s": 5.0, "lease_s": 3.0})


@pytest.fixture
async def http(traced: Settings, receiver: Receiver, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Run all parts but a worker, and give a client of the gateway."""
    with ExitStack() as parts:
        gateway = parts.enter_context(part_of("gateway", traced, tmp_path))
        for kind in ("batches", "webhooks"):
            parts.enter_context(part_of(kind, traced, tmp_path))
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as http:
            await until(lambda: _lives(http), timeout_s=60)
            yield http


async def _lives(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/livez")).is_success
    except httpx.TransportError:
        return False


def job(site: Site, prompt: str, **more: Any) -> dict[str, Any]:
    return {"prompt": f"{prompt} {SECRET}", "images": [f"{site.url}/p/{ASCII_SECRET}.png?token={ASCII_SECRET}"], **more}


def named(spans: list[Told], name: str) -> list[Told]:
    return [span for span in spans if span.name == name]


def steps_of(spans: list[Told], attempt: Told) -> list[str]:
    return [span.name for span in spans if span.parent == attempt.id]


async def test_the_whole_trace_of_a_job_whose_worker_was_killed_and_of_its_webhook(
    http: httpx.AsyncClient, traced: Settings, receiver: Receiver, site: Site, store: JobStore, tmp_path: Path
) -> None:
    picture_reply, refused = Reply(body=picture()), Reply(status=500)
    hook = {"url": f"{site.url}/hook/{ASCII_SECRET}?key={ASCII_SECRET}"}
    headers = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
    with ExitStack() as workers:
        first = workers.enter_context(part_of("jobs", traced, tmp_path))
        site.replies = [picture_reply, picture_reply, refused, refused, Reply()]
        body = job(site, "!slow 2", webhook=hook, metadata={"album": SECRET})
        job_id = (await http.post("/v1/jobs", json=body, headers=headers)).json()["id"]

        async def is_generating() -> bool:
            return (await store.get(job_id)).stage == "generating" and bool(named(receiver.spans, "wait"))

        await until(is_generating, timeout_s=90)
        first.process.kill()
        workers.enter_context(part_of("jobs", traced, tmp_path))
        ended = (await http.get(f"/v1/jobs/{job_id}?wait=60")).json()

        async def has_been_told() -> bool:
            return len(named(receiver.of_trace(TRACE), "deliver webhook")) == 3

        await until(has_been_told, timeout_s=30)

    assert (ended["status"], ended["attempt"]) == ("succeeded", 2)
    spans = receiver.of_trace(TRACE)
    [made] = named(spans, "create job")
    assert (made.kind, made.parent, made.service) == ("producer", CALLER, "sightline-gateway")
    lost, done = named(spans, "process job")
    for attempt, facts in ((lost, {"sightline.attempt": 1}), (done, {"sightline.attempt": 2})):
        assert (attempt.kind, attempt.parent, attempt.links, attempt.service) == (
            "consumer",
            made.id,
            [made.id],
            "sightline-jobs",
        )
        assert facts.items() <= attempt.facts.items()
        assert attempt.facts["messaging.message.id"] == job_id
        assert attempt.facts["messaging.destination.name"] == made.facts["messaging.destination.name"] == "default:qwen-vl"
    assert (lost.failed, lost.facts["error.type"], lost.facts["sightline.outcome"]) == (True, "worker_lost", "lost")
    assert lost.facts["sightline.stage"] == "generating"
    assert lost.facts["messaging.client.id"] != done.facts["messaging.client.id"]
    assert steps_of(spans, lost) == ["fetch", "decode", "wait"]  # which it had told before it was killed
    assert steps_of(spans, done) == STEPS
    assert (done.failed, done.facts["sightline.outcome"]) == (False, "succeeded")
    generated = named(spans, "generate")[-1].facts
    assert generated["gen_ai.request.model"] == "qwen-vl"
    assert generated["gen_ai.usage.output_tokens"] == ended["output"]["usage"]["output_tokens"]
    assert generated["gen_ai.usage.input_tokens"] == ended["output"]["usage"]["prompt_tokens"]
    tries = named(spans, "deliver webhook")
    assert [(one.kind, one.parent, one.service) for one in tries] == [("client", made.id, "sightline-webhooks")] * 3
    assert [one.facts["http.response.status_code"] for one in tries] == [500, 500, 200]
    assert [one.facts["sightline.verdict"] for one in tries] == ["retry", "retry", "delivered"]
    posted = [asked.headers["traceparent"] for asked in site.asked if asked.method == "POST"]
    assert posted == [f"00-{TRACE}-{one.id}-01" for one in tries]
    assert not [asked for asked in site.asked if asked.method == "GET" and "traceparent" in asked.headers]  # hosts of media
    assert {span.schema for span in spans} == {"https://opentelemetry.io/schemas/1.41.1"}
    logged = [json.loads(line) for line in (tmp_path / "jobs.log").read_text().splitlines() if '"job.ended"' in line]
    assert [line["trace_id"] for line in logged if line.get("job_id") == job_id] == [TRACE]
    check_nothing_is_given_away(receiver)


def check_nothing_is_given_away(receiver: Receiver) -> None:
    """Look through every byte that was sent."""
    assert receiver.bodies
    for body in receiver.bodies:
        for secret in (SECRET, ASCII_SECRET, "猫", "token=", "key=", "iVBORw0KGgo"):
            assert secret.encode() not in body


async def test_lines_of_batches_and_chats_are_traced_alike(
    http: httpx.AsyncClient, traced: Settings, receiver: Receiver, tmp_path: Path
) -> None:
    content = [{"type": "text", "text": SECRET}, {"type": "image_url", "image_url": {"url": data_url(picture())}}]
    chat: dict[str, Any] = {"model": "qwen-vl", "messages": [{"role": "user", "content": content}]}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": chat}
    with part_of("jobs", traced, tmp_path):
        async with client_of(str(http.base_url).rstrip("/")) as client:
            await until(lambda: _is_ready(http), timeout_s=90)
            await _stream(client, chat, {"traceparent": f"00-{TRACE}-{CALLER}-01"})
            await client.responses.create(model="qwen-vl", input=SECRET)
            file = await client.files.create(file=("in.jsonl", json.dumps(line).encode()), purpose="batch")
            batch = await client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")

            async def has_ended() -> bool:
                return (await client.batches.retrieve(batch.id)).status == "completed"

            await until(has_ended, timeout_s=60)

            async def has_been_told() -> bool:
                return len(named(receiver.spans, "process job")) == 3

            await until(has_been_told, timeout_s=30)

    made = named(receiver.spans, "create job")
    assert sorted((one.facts["messaging.destination.name"], one.service) for one in made) == [
        ("bulk:qwen-vl", "sightline-batches"),
        ("interactive:qwen-vl", "sightline-gateway"),
        ("interactive:qwen-vl", "sightline-gateway"),
    ]
    assert [one.parent for one in made if one.trace == TRACE] == [CALLER]
    for one in made:
        spans = receiver.of_trace(one.trace)
        [attempt] = named(spans, "process job")
        assert attempt.links == [one.id]
        assert steps_of(spans, attempt) == STEPS
    check_nothing_is_given_away(receiver)


async def test_a_batch_is_in_its_callers_trace_and_its_lines_are_linked_with_it(
    http: httpx.AsyncClient, traced: Settings, receiver: Receiver, site: Site, tmp_path: Path
) -> None:
    chat = {"model": "qwen-vl", "messages": [{"role": "user", "content": SECRET}]}
    lines = [{"custom_id": f"{SECRET} {n}", "method": "POST", "url": "/v1/chat/completions", "body": chat} for n in range(3)]
    hook = {"url": f"{site.url}/hook/{ASCII_SECRET}?key={ASCII_SECRET}", "event_types": ["batch.completed"]}
    with part_of("jobs", traced, tmp_path):
        async with client_of(str(http.base_url).rstrip("/")) as client:
            assert (await http.post("/v1/webhook_endpoints", json=hook)).is_success
            text = "\n".join(map(json.dumps, lines)).encode()
            file = await client.files.create(file=("in.jsonl", text), purpose="batch")
            batch = await client.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={"album": SECRET},
                extra_headers={"traceparent": f"00-{TRACE}-{CALLER}-01"},
            )

            async def has_been_told() -> bool:
                return len(named(receiver.spans, "process job")) == 3 and bool(named(receiver.spans, "deliver webhook"))

            await until(has_been_told, timeout_s=90)

    made, delivered = receiver.of_trace(TRACE)
    assert (made.name, made.kind, made.parent, made.service) == ("create batch", "producer", CALLER, "sightline-gateway")
    assert (delivered.name, delivered.parent, delivered.facts["sightline.batch.id"]) == ("deliver webhook", made.id, batch.id)
    created = named(receiver.spans, "create job")
    assert [(one.links, one.facts["sightline.batch.id"]) for one in created] == [([made.id], batch.id)] * 3
    assert len({one.trace for one in created} | {TRACE}) == 4  # a batch of 50,000 lines is no trace that anybody could show
    check_nothing_is_given_away(receiver)


@pytest.fixture
def here(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trace what runs in this process."""
    tracer = OtelTracer("jobs")
    monkeypatch.setattr("shared.tracing._Process.tracer", tracer)
    yield
    tracer.end()


async def told(receiver: Receiver, job_id: str, n: int) -> tuple[list[Told], list[Told]]:
    """Give the attempts at a job once there are so many, and the steps that failed."""

    async def are_there() -> bool:
        return len([one for one in named(receiver.spans, "process job") if one.facts["messaging.message.id"] == job_id]) == n

    await until(are_there)
    spans = receiver.of_job(job_id)
    attempts = named(spans, "process job")
    return attempts, [span for span in spans if span.failed and span.parent in {attempt.id for attempt in attempts}]


@pytest.mark.usefixtures("here", "worker")
@pytest.mark.parametrize(
    ("prompt", "reply", "outcomes", "failing"),
    [
        ("!fail 1", Reply(body=picture()), ["retried", "succeeded"], ("generate", "engine_failed")),
        ("!long", Reply(body=picture()), ["failed"], ("generate", "prompt_too_long")),
        ("!kill 1", Reply(body=picture()), ["suspected", "succeeded"], ("generate", "engine_failed")),
        ("hello", Reply(body=b"no picture" * 100), ["failed"], ("decode", "unsupported_media")),
        ("hello", Reply(status=404), ["retried", "failed"], ("fetch", "media_unreachable")),
    ],
)
async def test_an_attempt_and_its_step_tell_what_went_wrong(
    prompt: str,
    reply: Reply,
    outcomes: list[str],
    failing: tuple[str, str],
    gateway: httpx.AsyncClient,
    receiver: Receiver,
    site: Site,
) -> None:
    site.replies = [reply]
    job_id = (await gateway.post("/v1/jobs", json=job(site, prompt))).json()["id"]

    attempts, failed = await told(receiver, job_id, len(outcomes))

    assert [one.facts["sightline.outcome"] for one in attempts] == outcomes
    assert {(one.name, one.facts["error.type"]) for one in failed} == {failing}
    assert (attempts[0].failed, attempts[0].facts["error.type"]) == (True, failing[1])
    check_nothing_is_given_away(receiver)


@pytest.mark.usefixtures("here")
async def test_an_attempt_whose_lease_is_lost_is_told_once(
    settings: Settings, gateway: httpx.AsyncClient, receiver: Receiver, site: Site, store: JobStore
) -> None:
    site.replies = [Reply(body=picture())]
    async with Worker(settings.model_copy(update={"lease_s": 0.4})).running() as worker:
        job_id = (await gateway.post("/v1/jobs", json=job(site, "!slow 1"))).json()["id"]

        async def is_generating() -> bool:
            return (await store.get(job_id)).stage == "generating"

        await until(is_generating)
        await store.rescue(settings, dead=[worker.runtime.name], on_lost=tell_lost)  # it is taken for dead
        attempts, failed = await told(receiver, job_id, 2)

    assert [one.facts["sightline.outcome"] for one in attempts] == ["lost", "succeeded"]
    assert [(one.name, one.parent, one.facts["error.type"]) for one in failed] == [("generate", attempts[0].id, "worker_lost")]


async def test_a_job_keeps_nothing_of_its_callers_trace_while_traces_are_off(gateway: httpx.AsyncClient, redis: Redis) -> None:
    body = {"prompt": "hello", "images": [data_url(picture())]}
    answer = await gateway.post("/v1/jobs", json=body, headers={"traceparent": f"00-{TRACE}-{CALLER}-01"})

    record = await redis.hgetall(f"{PREFIX}job:{answer.json()['id']}")  # type: ignore[misc]
    assert record["status"] == "queued"
    assert TRACE not in str(record)


async def _is_ready(http: httpx.AsyncClient) -> bool:
    return bool((await http.get("/readyz")).json().get("status") == "ok")


async def _stream(client: AsyncOpenAI, chat: dict[str, Any], headers: dict[str, str]) -> None:
    async with await client.chat.completions.create(**chat, stream=True, extra_headers=headers) as stream:
        assert [chunk async for chunk in stream]
