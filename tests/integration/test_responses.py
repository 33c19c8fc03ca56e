"""OpenAI's responses: the published openai and langchain-openai packages against a gateway and a worker, unmodified."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseCompletedEvent, ResponseStreamEvent, ResponseTextDeltaEvent

from shared.jobs import JobStatus
from shared.settings import Settings
from shared.store.event_log import EventLog
from shared.store.jobs import JobStore
from tests.claims import claim_job, listed
from tests.integration.conftest import Reply, Site, Worker, stored_files, until
from tests.integration.test_sender import send
from tests.media import BLUE, GREEN, RED, clip, data_url, picture
from worker.webhooks.sender import Sender

PROMPT = "请用中文描述一下这张图片"
SEEN = f"1 x 532x392 #dc1e1e; {PROMPT}"
WORDS = "一个 红色的 圆 和 two blue squares, 然后 nothing more " * 3
EVENTS = {
    "begin": ["response.created", "response.queued", "response.in_progress"],
    "open": ["response.output_item.added", "response.content_part.added"],
    "close": ["response.output_text.done", "response.content_part.done", "response.output_item.done"],
}


def text(text: str = PROMPT) -> dict[str, Any]:
    return {"type": "input_text", "text": text}


def image(colour: Any = RED, **given: Any) -> dict[str, Any]:
    return {"type": "input_image", "image_url": data_url(picture(colour)), "detail": "auto", **given}


def ask(*parts: dict[str, Any]) -> list[Any]:
    return [{"role": "user", "content": list(parts or (image(), text()))}]


async def ended(client: AsyncOpenAI, response_id: str) -> Response:
    async def look() -> Response | None:
        response = await client.responses.retrieve(response_id)
        return None if response.status in {"queued", "in_progress"} else response

    response: Response = await until(look)
    return response


async def only_job(store: JobStore) -> Any:
    ((job,), _) = await listed(store, owner="local", limit=5)
    return job


async def is_over(store: JobStore) -> Any:
    job = await only_job(store)
    return job if job.status.is_final else None


async def test_a_response_is_answered(client: AsyncOpenAI, worker: Worker, store: JobStore) -> None:
    metadata = {"相册": "夏天"}
    answer = await client.responses.create(
        model="qwen-vl",
        input=ask(),
        instructions="Be brief.",
        temperature=0.7,
        top_p=0.5,
        max_output_tokens=99,
        metadata=metadata,
    )

    assert answer.output_text == SEEN.replace(PROMPT, f"Be brief. {PROMPT}")
    assert (answer.status, answer.model, answer.background, answer.error) == ("completed", "qwen-vl", False, None)
    assert (answer.instructions, answer.temperature, answer.top_p, answer.max_output_tokens) == ("Be brief.", 0.7, 0.5, 99)
    assert (answer.metadata, answer.tools) == (metadata, [])
    assert answer.text is not None
    assert answer.text.format is not None
    assert answer.text.format.type == "text"
    assert answer.completed_at is not None
    assert answer.completed_at >= answer.created_at
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens > 0
    Response.model_validate(answer.model_dump(), strict=True)
    assert await client.responses.retrieve(answer.id) == answer
    assert (await store.get(answer.id.replace("resp_", "job_"))).status is JobStatus.SUCCEEDED


async def test_a_response_in_the_background_is_polled(client: AsyncOpenAI, settings: Settings) -> None:
    made = await client.responses.create(model="qwen-vl", input=ask(), background=True)
    assert (made.status, made.background, made.output, made.usage) == ("queued", True, [], None)
    assert await client.responses.retrieve(made.id) == made

    async with Worker(settings).running():
        answer = await ended(client, made.id)

    assert (answer.status, answer.output_text, answer.background) == ("completed", SEEN, True)


async def test_langchain_asks_for_responses(url: str, worker: Worker) -> None:
    from langchain_openai import ChatOpenAI  # whose import takes as long as ten tests

    chat = ChatOpenAI(model="qwen-vl", base_url=f"{url}/v1", api_key="EMPTY", use_responses_api=True, max_retries=0)  # type: ignore[arg-type]
    message = [("user", [{"type": "text", "text": PROMPT}, {"type": "image_url", "image_url": {"url": data_url(picture())}}])]

    assert (await chat.ainvoke(message)).text == SEEN
    pieces = [piece async for piece in chat.astream(message)]
    assert "".join(piece.text for piece in pieces) == SEEN
    assert sum(piece.usage_metadata["output_tokens"] for piece in pieces if piece.usage_metadata) > 0


async def test_everything_a_response_asks_for_reaches_the_job(client: AsyncOpenAI, worker: Worker, site: Site) -> None:
    seen = []
    generate = worker.engine.generate

    async def watched(conversation: Any, sampling: Any, **rest: Any) -> Any:
        seen.append((conversation, sampling))
        return await generate(conversation, sampling, **rest)

    worker.engine.generate = watched  # type: ignore[method-assign]
    still = await client.files.create(file=("a.png", picture(GREEN)), purpose="vision")
    film = await client.files.create(file=("a.mp4", clip([0, 255])), purpose="vision")
    schema = {"type": "object", "properties": {"colour": {"type": "string"}}}
    files = {"file_id": film.id}, {"file_data": data_url(picture(BLUE))}, {"file_url": f"{site.url}/a.png"}
    site.replies = [Reply(body=picture())]
    items = [
        {"role": "developer", "content": "Be brief."},
        *ask(image(detail="low"), {"type": "input_image", "file_id": still.id, "detail": "high"}, text()),
        {"type": "message", "role": "assistant", "id": "msg_1", "content": [{"type": "output_text", "text": "Two."}]},
        *ask(*({"type": "input_file", **file} for file in files), text()),
    ]
    answer = await client.responses.create(
        model="qwen-vl",
        instructions="Look.",
        input=items,
        text={"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}, "verbosity": "medium"},
        max_output_tokens=9,
        temperature=0.2,
        user="somebody",
        tools=[],
        tool_choice="none",
        truncation="disabled",
        extra_body={"background_options": {"completion_window": "soonest"}},
    )

    ((conversation, sampling),) = seen
    assert [message["role"] for message in conversation] == ["system", "system", "user", "assistant", "user"]
    small, large = (part["image"] for part in conversation[2]["content"][:2])
    assert small.width_px * small.height_px <= large.width_px * large.height_px
    assert [part["type"] for part in conversation[4]["content"]] == ["video", "image", "image", "text"]
    assert (sampling.max_tokens, sampling.temperature) == (9, 0.2)
    assert sampling.response_format.json_schema.json_schema == schema
    assert answer.text is not None
    assert answer.text.format is not None
    assert answer.text.format.to_dict() == {"type": "json_schema", "name": "x", "schema": schema, "strict": True}


async def test_a_text_that_was_cut_is_incomplete(client: AsyncOpenAI, worker: Worker) -> None:
    answer = await client.responses.create(model="qwen-vl", input=ask(), max_output_tokens=2)
    assert (answer.status, answer.output_text) == ("incomplete", "1 x")
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"

    stream = await client.responses.create(model="qwen-vl", input=ask(), max_output_tokens=2, stream=True)
    assert [event.type async for event in stream][-1] == "response.incomplete"


async def test_a_response_that_fails_says_why(client: AsyncOpenAI, worker: Worker) -> None:
    broken = ask(image(image_url=data_url(picture()[:100])), text())
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="qwen-vl", input=broken)
    assert caught.value.code == "image_parse_error"

    made = await client.responses.create(model="qwen-vl", input=broken, background=True)
    failed = await ended(client, made.id)
    assert (failed.status, failed.output) == ("failed", [])
    assert failed.error is not None
    assert failed.error.code == "image_parse_error"
    events = [event async for event in await client.responses.retrieve(made.id, stream=True)]
    assert [event.type for event in events] == [*EVENTS["begin"], "response.failed"]
    assert events[-1].response.to_dict() == failed.to_dict()  # type: ignore[union-attr]


@pytest.mark.parametrize("background", [False, True])
async def test_only_a_response_in_the_background_outlives_its_client(
    client: AsyncOpenAI, store: JobStore, worker: Worker, *, background: bool
) -> None:
    stream = await client.responses.create(
        model="qwen-vl", input=ask(image(), text("!slow 0.5" if background else "!slow 60")), stream=True, background=background
    )
    await anext(aiter(stream))
    await until(lambda: is_running(worker))
    await stream.close()

    assert (await until(lambda: is_over(store))).status == ("succeeded" if background else "cancelled")


async def is_running(worker: Worker) -> bool:
    return worker.engine.running == 1


async def test_a_client_that_hangs_up_cancels_its_response(url: str, store: JobStore, worker: Worker) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        body = {"model": "qwen-vl", "input": ask(image(), text("!slow 60"))}
        asking = asyncio.create_task(client.post(f"{url}/v1/responses", json=body))
        await until(lambda: is_running(worker))
        asking.cancel()

        assert (await until(lambda: is_over(store))).status is JobStatus.CANCELLED


async def test_a_response_is_cancelled_in_every_state(client: AsyncOpenAI, settings: Settings) -> None:
    made = await client.responses.create(model="qwen-vl", input=ask(), background=True)
    assert (await client.responses.cancel(made.id)).status == "cancelled"

    async with Worker(settings).running() as worker:
        slow = await client.responses.create(model="qwen-vl", input=ask(image(), text("!slow 60")), background=True)
        await until(lambda: is_running(worker))
        await client.responses.cancel(slow.id)
        cancelled = await ended(client, slow.id)
        assert (cancelled.status, cancelled.error) == ("cancelled", None)
        assert await client.responses.cancel(slow.id) == cancelled

        done = await client.responses.create(model="qwen-vl", input=ask())
        assert await client.responses.cancel(done.id) == done
    events = [event async for event in await client.responses.retrieve(slow.id, stream=True)]
    assert events[-1].type == "response.cancelled"  # type: ignore[comparison-overlap]  # the SDK passes on what it does not list


async def test_a_deleted_response_leaves_nothing(client: AsyncOpenAI, url: str, settings: Settings) -> None:
    waiting = await client.responses.create(model="qwen-vl", input=ask(), background=True)
    await client.responses.delete(waiting.id)
    async with Worker(settings).running() as worker:
        done = await client.responses.create(model="qwen-vl", input=ask())
        running = await client.responses.create(model="qwen-vl", input=ask(image(), text("!slow 60")), background=True)
        await until(lambda: is_running(worker))
        for response in (done, running):
            await client.responses.delete(response.id)
        responses = [waiting, done, running]
        for call in (client.responses.retrieve, client.responses.cancel, client.responses.delete):
            for response in responses:
                with pytest.raises(openai.NotFoundError):
                    await call(response.id)

        async with httpx.AsyncClient(base_url=url) as http:

            async def all_gone() -> bool:
                await worker.runtime._janitor.purge()
                paths = [f"/v1/jobs/{response.id.replace('resp_', 'job_')}" for response in responses]
                return all([(await http.get(path)).status_code == 410 for path in paths]) and not stored_files(settings)

            await until(all_gone)


async def test_a_job_that_is_no_response_is_not_one(client: AsyncOpenAI, url: str, worker: Worker, store: JobStore) -> None:
    answer = await client.responses.create(model="qwen-vl", input=ask(), store=False)
    assert (answer.status, answer.output_text, answer.to_dict()["store"]) == ("completed", SEEN, False)
    chat = await client.chat.completions.create(model="qwen-vl", messages=[{"role": "user", "content": "Hello."}])

    job_id = chat.id.replace("chatcmpl-", "job_")
    stored = await client.responses.create(model="qwen-vl", input=ask())
    own_job_id = stored.id.replace("resp_", "job_")
    for response_id in (answer.id, job_id.replace("job_", "resp_"), job_id, own_job_id, "resp_", "x"):
        with pytest.raises(openai.NotFoundError) as caught:
            await client.responses.retrieve(response_id)
        assert caught.value.message.endswith("there is no response by that id")


def named(url: str) -> list[Any]:
    return ask({"type": "input_image", "image_url": url}, text())


TOOL = {"type": "function", "name": "f", "parameters": {}}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
REFUSED = [
    ({"model": "gpt-4o"}, 404, "model_not_found", "model"),
    ({"tools": [{"type": "web_search"}]}, 400, "invalid_request", "tools.0.type"),
    ({"tools": [{**TOOL, "colour": 1}]}, 400, "invalid_request", "tools.0.colour"),
    ({"tools": [{**TOOL, "name": "<|im_end|>"}]}, 400, "reserved_token", "tools"),
    ({"tool_choice": "required"}, 400, "invalid_request", "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, 400, "invalid_request", "tool_choice"),
    ({"input": [{"type": {}, "call_id": "c", "output": "x"}]}, 400, "invalid_request", "input.0.type"),
    ({"previous_response_id": "resp_1"}, 400, "unsupported_parameter", "previous_response_id"),
    ({"conversation": "conv_1"}, 400, "unsupported_parameter", "conversation"),
    ({"reasoning": {"effort": "high"}}, 400, "unsupported_parameter", "reasoning"),
    ({"truncation": "auto"}, 400, "unsupported_parameter", "truncation"),
    ({"extra_body": {"no_such_field": 1}}, 400, "unsupported_parameter", "no_such_field"),
    ({"background": True, "store": False}, 400, "invalid_request", "store"),
    ({"temperature": 3.0}, 400, "invalid_request", "temperature"),
    ({"max_output_tokens": 0}, 400, "invalid_request", "max_output_tokens"),
    ({"text": {"format": {"type": "json_schema"}}}, 400, "invalid_request", "text.format.schema"),
    ({"text": {"format": {"type": "xml"}}}, 400, "invalid_request", "text.format.type"),
    ({"text": {"format": {"type": "json_schema", "schema": {}, r"\A": 1}}}, 400, "invalid_request", r"text.format.\A"),
    ({"input": []}, 400, "invalid_request", "input"),
    ({"input": " "}, 400, "empty_prompt", "input"),
    ({"input": "<|im_end|>"}, 400, "reserved_token", "input"),
    ({"instructions": "<|im_end|>"}, 400, "reserved_token", "instructions"),
    ({"instructions": "Look.", "input": "<|im_end|>"}, 400, "reserved_token", "input"),
    ({"instructions": "Look.", "input": ask(image(), text("<|im_end|>"))}, 400, "reserved_token", "input.0.content.1"),
    ({"input": [{"role": "robot", "content": "x"}]}, 400, "invalid_request", "input.0.role"),
    ({"input": [{"type": "no_such_item", "call_id": "1", "output": "x"}]}, 400, "invalid_request", "input.0.type"),
    ({"input": [{"type": "function_call", "name": "f"}]}, 400, "invalid_request", "input.0.call_id"),
    (
        {"input": [*ask(), CALL, CALL, {"type": "function_call_output", "call_id": "c1", "output": "<|im_end|>"}]},
        *(400, "reserved_token", "input.3.output"),
    ),
    ({"input": [*ask(), {**CALL, "arguments": "<|im_end|>"}]}, 400, "reserved_token", "input.1"),
    ({"input": ask({"type": "input_text"})}, 400, "invalid_request", "input.0.content.0.text"),
    ({"input": ask({"type": "input_image"}, text())}, 400, "invalid_image_url", "input.0.content.0"),
    ({"input": ask({"type": "input_file"}, text())}, 400, "invalid_image_url", "input.0.content.0"),
    ({"input": ask(text(), {"type": "input_file", "file_id": "file-1"})}, 400, "image_file_not_found", "input.0.content.1"),
    ({"input": ask(text(), {"type": "input_image", "file_id": "file-1"})}, 400, "image_file_not_found", "input.0.content.1"),
    ({"input": named("/etc/passwd")}, 400, "invalid_image_url", "input.0.content.0"),
    ({"input": named("http://10.0.0.1/a.png")}, 400, "invalid_image_url", "input.0.content.0"),
    ({"input": named(data_url(b"x"))}, 400, "unsupported_image_media_type", "input.0.content.0"),
    ({"input": ask(*[image()] * 65)}, 400, "too_many_items", "input"),
]  # fmt: skip


async def test_what_cannot_be_answered_is_refused_as_openai_does(client: AsyncOpenAI, store: JobStore) -> None:
    for given, status, code, param in REFUSED:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.responses.create(**{"model": "qwen-vl", "input": ask(), **given})  # type: ignore[call-overload]

        told = (caught.value.status_code, caught.value.code, caught.value.param, caught.value.type)
        assert told == (status, code, param, "invalid_request_error"), given
        assert "messages" not in caught.value.message
        assert "list[" not in caught.value.message
    assert await listed(store, owner="local", limit=5) == ([], False)
    made = await client.responses.create(model="qwen-vl", input=ask(), background=True)
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.retrieve(made.id, stream=True, starting_after=-1)
    assert caught.value.param == "starting_after"


async def test_a_stream_tells_the_events_of_openai(client: AsyncOpenAI, worker: Worker) -> None:
    stream = await client.responses.create(model="qwen-vl", input=ask(image(), text(f"!speak 0.06 {WORDS}")), stream=True)
    events = [event async for event in stream]

    deltas = [event for event in events if isinstance(event, ResponseTextDeltaEvent)]
    kinds = [*EVENTS["begin"], *EVENTS["open"], *["response.output_text.delta"] * len(deltas), *EVENTS["close"]]
    assert [event.type for event in events] == [*kinds, "response.completed"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert len(deltas) > 2
    for event in events:
        type(event).model_validate(event.model_dump(), strict=True)
    last = events[-1]
    assert isinstance(last, ResponseCompletedEvent)
    assert "".join(delta.delta for delta in deltas) == last.response.output_text
    assert last.response == await client.responses.retrieve(last.response.id)


async def test_the_sdk_gathers_a_stream_and_goes_on_with_one(client: AsyncOpenAI, worker: Worker) -> None:
    async with client.responses.stream(model="qwen-vl", input=ask(), background=True) as stream:
        answer = await stream.get_final_response()
    assert (answer.output_text, answer.status) == (SEEN, "completed")

    async with client.responses.stream(response_id=answer.id, starting_after=5) as again:
        assert (await again.get_final_response()).output_text == SEEN


async def told(client: AsyncOpenAI, response_id: str, **given: Any) -> list[ResponseStreamEvent]:
    return [event async for event in await client.responses.retrieve(response_id, stream=True, **given)]


async def test_readers_that_are_cut_off_at_random_are_told_everything_once(client: AsyncOpenAI, worker: Worker) -> None:
    stream = await client.responses.create(
        model="qwen-vl", input=ask(image(), text(f"!speak 0.03 {WORDS}")), background=True, stream=True
    )
    events, dice, cuts, response_id = list[ResponseStreamEvent](), random.Random(11), 0, ""
    while not events or events[-1].type != "response.completed":
        stop_at = len(events) + dice.randint(1, 4)
        async for event in stream:
            events.append(event)
            if len(events) == stop_at:
                break
        await stream.close()
        response_id = response_id or events[0].response.id  # type: ignore[union-attr]
        cuts += 1
        stream = await client.responses.retrieve(response_id, stream=True, starting_after=events[-1].sequence_number)
    assert [event async for event in stream] == []

    assert cuts > 5
    whole = await told(client, response_id)
    assert events == whole
    for n in range(len(whole)):
        assert await told(client, response_id, starting_after=n) == whole[n + 1 :]


async def test_a_worker_lost_in_the_middle_of_a_stream_changes_no_number(client: AsyncOpenAI, settings: Settings) -> None:
    async with Worker(settings).running() as worker:
        stream = await client.responses.create(
            model="qwen-vl", input=ask(image(), text(f"!speak 0.02 {WORDS}")), background=True, stream=True
        )
        events = list[ResponseStreamEvent]()
        async for event in stream:
            events.append(event)
            if event.type == "response.output_text.delta" and len(worker.engines) == 1:
                worker.engine._dead.set()

    assert len(worker.engines) == 2
    last = events[-1]
    assert isinstance(last, ResponseCompletedEvent)
    assert "".join(e.delta for e in events if isinstance(e, ResponseTextDeltaEvent)) == last.response.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert await told(client, last.response.id) == events


async def test_a_stream_whose_text_changes_ends_with_an_error(client: AsyncOpenAI, store: JobStore) -> None:
    """Another worker says something else than the one that died, and the reader cannot be told so but by an error."""
    made = await client.responses.create(model="qwen-vl", input=ask(), background=True, stream=True)
    first = await anext(aiter(made))
    job_id = first.response.id.replace("resp_", "job_")  # type: ignore[union-attr]
    await made.close()
    for piece in ("一个红色的", "两个"):
        claim = await claim_job(store, job_id, worker="w", lease_s=60)
        assert claim is not None
        await EventLog(store.redis).append_deltas([(claim, 0, piece)])
        await store.release(claim, "retry")
    stream = await client.responses.retrieve(first.response.id, stream=True, starting_after=3)  # type: ignore[union-attr]
    with pytest.raises(openai.APIError) as caught:
        _ = [event async for event in stream]

    assert caught.value.code == "stream_broken"


async def test_endpoints_are_told_of_responses_in_openais_words(
    client: AsyncOpenAI, settings: Settings, site: Site, worker: Worker
) -> None:
    ends: Any = ["response.completed", "response.incomplete", "response.failed", "response.cancelled"]
    endpoint = await client.webhooks.create(name="hook", url=f"{site.url}/hook", event_types=ends)
    asks: list[tuple[str, dict[str, Any]]] = [
        ("response.completed", {"input": ask()}),
        ("response.incomplete", {"input": ask(), "max_output_tokens": 2}),
        ("response.failed", {"input": ask(image(), text("!long"))}),
        ("response.cancelled", {"input": ask(image(), text("!slow 60"))}),
    ]
    expected = {}
    for kind, asked in asks:
        made = await client.responses.create(model="qwen-vl", background=True, **asked)
        expected[made.id] = kind
        if kind == "response.cancelled":
            await client.responses.cancel(made.id)
        await ended(client, made.id)
    await client.responses.create(model="qwen-vl", input=ask(), store=False)
    await client.chat.completions.create(model="qwen-vl", messages=[{"role": "user", "content": "Hello."}])

    sender = Sender(settings)
    await send(sender)

    events = [client.webhooks.unwrap(a.body, a.headers, secret=endpoint.signing_secret) for a in site.asked]
    assert {event.data.id: event.type for event in events} == expected  # type: ignore[union-attr]
    assert len(events) == len(expected)
    assert [json.loads(a.body)["id"] for a in site.asked] == [a.headers["webhook-id"] for a in site.asked]
    assert {type(event).__name__ for event in events} == {
        f"Response{kind.removeprefix('response.').title()}WebhookEvent" for kind in ends
    }

    late = await client.webhooks.create(name="late", url=f"{site.url}/late", event_types=["response.completed"])
    async with httpx.AsyncClient(base_url=str(client.base_url)) as http:
        recovered = await http.post(f"webhook_endpoints/{late.id}/recover", json={"since": 0})
    assert recovered.json()["deliveries"] == 1
    await send(sender)
    await sender.close()
    assert [asked.path for asked in site.asked[len(events) :]] == ["/late"]
