"""OpenAI's chat: the published openai and langchain-openai packages against a gateway and a worker, unmodified."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from shared.jobs import JobStatus
from shared.sampling_params import Sampling
from shared.settings import Settings
from shared.store.jobs import JobStore
from shared.store.workers import WorkerRegistry
from tests.claims import claim_job, listed
from tests.integration.conftest import Worker, serving, until
from tests.media import BLUE, RED, clip, data_url, picture

PROMPT = "请用中文描述一下这张图片"
TEXT = {"type": "text", "text": PROMPT}


def image(colour: Any = RED, **given: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(picture(colour)), **given}}


def ask(*parts: dict[str, Any]) -> list[Any]:
    return [{"role": "user", "content": list(parts or (image(), TEXT))}]


async def test_a_chat_with_a_picture_is_answered(client: AsyncOpenAI, worker: Worker, store: JobStore) -> None:
    answer = await client.chat.completions.create(model="qwen-vl", messages=ask())

    (choice,) = answer.choices
    assert choice.message.content == f"1 x 532x392 #dc1e1e; {PROMPT}"
    assert (choice.message.role, choice.finish_reason, answer.model) == ("assistant", "stop", "qwen-vl")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    assert answer._request_id
    assert answer._request_id.startswith("req_")
    job = await store.get(answer.id.replace("chatcmpl-", "job_"))
    assert job.status is JobStatus.SUCCEEDED


async def test_several_texts_and_their_probabilities(client: AsyncOpenAI, worker: Worker, store: JobStore) -> None:
    messages = ask()
    plain = await client.chat.completions.create(model="qwen-vl", messages=messages)
    answer = await client.chat.completions.create(model="qwen-vl", messages=messages, n=3, logprobs=True, top_logprobs=1)

    said = f"1 x 532x392 #dc1e1e; {PROMPT}"
    assert [(one.index, one.message.content) for one in answer.choices] == [(0, said), (1, f"{said} 1"), (2, f"{said} 2")]
    assert plain.usage is not None
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == plain.usage.prompt_tokens
    assert answer.usage.completion_tokens == 3 * plain.usage.completion_tokens
    assert plain.choices[0].logprobs is None
    assert answer.choices[0].logprobs is not None
    (first, *_) = answer.choices[0].logprobs.content or ()
    assert (first.token, first.bytes, [top.token for top in first.top_logprobs]) == ("1", [49], ["1"])
    job = await store.get(answer.id.replace("chatcmpl-", "job_"))
    assert job.output is not None
    assert [other.text for other in job.output.others] == [f"{said} 1", f"{said} 2"]


async def test_langchain_works_as_people_have_it(url: str, worker: Worker) -> None:
    from langchain_openai import ChatOpenAI  # whose import takes as long as ten tests

    chat = ChatOpenAI(model="qwen-vl", base_url=f"{url}/v1", api_key="EMPTY", temperature=0.1, max_tokens=512, max_retries=0)  # type: ignore[arg-type, call-arg]
    answer = await chat.ainvoke([("system", "You are a helpful assistant."), ("user", [TEXT, image(BLUE)])])

    assert answer.text == f"1 x 532x392 #1e3cdc; You are a helpful assistant. {PROMPT}"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 0


async def test_everything_a_chat_says_reaches_the_job(client: AsyncOpenAI, store: JobStore, worker: Worker) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [image(detail="low"), image(BLUE), TEXT]},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": [{"type": "video_url", "video_url": {"url": data_url(clip([0, 255]), "video/mp4")}}, TEXT]},
    ]
    schema = {"name": "x", "schema": {"type": "object", "properties": {"colour": {"type": "string"}}}, "strict": True}
    seen = []
    generate = worker.engine.generate

    async def watched(conversation: Any, sampling: Any, **rest: Any) -> Any:
        seen.append((conversation, sampling))
        return await generate(conversation, sampling, **rest)

    worker.engine.generate = watched  # type: ignore[method-assign]
    await client.chat.completions.create(
        model="qwen-vl",
        messages=messages,  # type: ignore[arg-type]
        temperature=0.7,
        top_p=0.5,
        max_completion_tokens=9,
        max_tokens=3,
        stop="。",
        seed=3,
        n=2,
        logprobs=True,
        top_logprobs=4,
        response_format={"type": "json_schema", "json_schema": schema},  # type: ignore[typeddict-item]
        user="somebody",
        presence_penalty=1.5,
        frequency_penalty=-0.5,
        extra_body={
            "repetition_penalty": 1.2,
            "top_k": 20,
            "min_p": 0.05,
            "stop_token_ids": [7],
            "mm_processor_kwargs": {"max_pixels": 401_408},
        },
    )

    ((conversation, sampling),) = seen
    assert [message["role"] for message in conversation] == ["system", "user", "assistant", "user"]
    small, large = (part["image"] for part in conversation[1]["content"][:2])
    assert small.width_px * small.height_px <= large.width_px * large.height_px
    assert sampling.model_dump(exclude={"response_format"}) == {
        "temperature": 0.7,
        "top_p": 0.5,
        "top_k": 20,
        "min_p": 0.05,
        "repetition_penalty": 1.2,
        "presence_penalty": 1.5,
        "frequency_penalty": -0.5,
        "max_tokens": 9,
        "stop_token_ids": [7],
        "repetition_detection": True,
        "stop": ["。"],
        "seed": 3,
        "n": 2,
        "logprobs": 4,
    }
    assert sampling.response_format.json_schema.json_schema == schema["schema"]


async def test_values_left_out_are_ours(client: AsyncOpenAI, store: JobStore) -> None:
    asking = asyncio.create_task(client.chat.completions.create(model="qwen-vl", messages=ask(TEXT)))
    ((job,), _) = await until(lambda: _jobs(store))
    claim = await claim_job(store, job.id, worker="w", lease_s=60)

    assert claim is not None
    # As for jobs; but an answer may be as long as the context lets it be, as OpenAI's and vLLM's may.
    assert claim.request.sampling == Sampling(max_tokens=None)
    assert claim.priority == "interactive"
    asking.cancel()


async def _jobs(store: JobStore) -> Any:
    jobs = await listed(store, owner="local", limit=5)
    return jobs if jobs[0] else None


async def test_a_client_that_hangs_up_cancels_its_job(url: str, store: JobStore, worker: Worker) -> None:
    body = {"model": "qwen-vl", "messages": ask(image(), {"type": "text", "text": "!slow 60"})}
    async with httpx.AsyncClient() as client:
        asking = asyncio.create_task(client.post(f"{url}/v1/chat/completions", json=body, timeout=60))
        await until(lambda: _is(worker.engine.running == 1))
        asking.cancel()
        ((job,), _) = await listed(store, owner="local", limit=5)
        ended = await until(lambda: _ended(store, job.id))

    assert ended.status is JobStatus.CANCELLED


async def _is(value: bool) -> bool:  # noqa: FBT001
    return value


async def _ended(store: JobStore, job_id: str) -> Any:
    job = await store.get(job_id)
    return job if job.status.is_final else None


def named(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


UPLOAD = {"type": "file", "file": {"file_id": "file-1"}}
REFUSED = [
    ({"model": "gpt-4o"}, 404, "model_not_found", "model"),
    ({"n": 2, "stream": True}, 400, "unsupported_parameter", "n"),
    ({"n": 17}, 400, "invalid_request", "n"),
    ({"n": 2, "temperature": 0}, 400, "invalid_request", "n"),
    ({"n": 0}, 400, "invalid_request", "n"),
    ({"functions": [{"name": "f", "parameters": {}}]}, 400, "unsupported_parameter", "functions"),
    ({"logprobs": True, "stream": True}, 400, "unsupported_parameter", "logprobs"),
    ({"top_logprobs": 2}, 400, "invalid_request", "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, 400, "invalid_request", "top_logprobs"),
    ({"temperature": 3.0}, 400, "invalid_request", "temperature"),
    ({"messages": []}, 400, "invalid_request", "messages"),
    ({"messages": [{"role": "robot", "content": "x"}]}, 400, "invalid_request", "messages.0.role"),
    ({"messages": ask(named("/etc/passwd"))}, 400, "invalid_image_url", "messages.0.content.0"),
    ({"messages": ask(named("http://10.0.0.1/a.png"))}, 400, "invalid_image_url", "messages.0.content.0"),
    ({"messages": ask(image(), UPLOAD)}, 400, "image_file_not_found", "messages.0.content.1"),
    ({"messages": ask(named(data_url(b"x")))}, 400, "unsupported_image_media_type", "messages.0.content.0"),
    ({"messages": ask(*[image()] * 65)}, 400, "too_many_items", "messages"),
    ({"messages": ask({"type": "text", "text": "  "})}, 400, "empty_prompt", "messages"),
    ({"response_format": {"type": "json_schema"}}, 400, "invalid_request", None),
]  # fmt: skip


@pytest.mark.parametrize(("given", "status", "code", "param"), REFUSED)
async def test_what_cannot_be_answered_is_refused_as_openai_does(
    client: AsyncOpenAI, given: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        await client.chat.completions.create(**{"model": "qwen-vl", "messages": ask(), **given})

    assert (caught.value.status_code, caught.value.code) == (status, code)
    if param:
        assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


async def test_a_job_that_fails_is_an_error_of_the_chat(client: AsyncOpenAI, worker: Worker) -> None:
    broken = {"type": "image_url", "image_url": {"url": data_url(picture()[:100])}}
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="qwen-vl", messages=ask(broken, TEXT))
    assert caught.value.code == "image_parse_error"

    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="qwen-vl", messages=ask(image(), {"type": "text", "text": "!long"}))
    assert caught.value.code == "context_length_exceeded"

    with pytest.raises(openai.InternalServerError) as failed:
        await client.chat.completions.create(model="qwen-vl", messages=ask(image(), {"type": "text", "text": "!kill"}))
    assert (failed.value.code, failed.value.response.headers["x-should-retry"]) == ("poison_input", "false")


async def test_structure_is_refused_where_only_transformers_runs(
    client: AsyncOpenAI, settings: Settings, store: JobStore
) -> None:
    facts = {"name": "w", "phase": "ready", "engine": {"name": "transformers"}}
    await WorkerRegistry(store.redis).heartbeat("w", facts, ttl_s=60)

    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="qwen-vl", messages=ask(), response_format={"type": "json_object"})
    assert caught.value.code == "unsupported_response_format"

    with pytest.raises(openai.BadRequestError, match="transformers engine serves no logprobs"):
        await client.chat.completions.create(model="qwen-vl", messages=ask(), logprobs=True)


async def test_models_are_listed_without_a_worker(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["qwen-vl"]
    assert (await client.models.retrieve("qwen-vl")).owned_by == "sightline"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("Qwen/Qwen2.5-VL-3B-Instruct")
    assert caught.value.code == "model_not_found"


async def test_a_stream_says_the_text_piece_by_piece_and_counts_it(client: AsyncOpenAI, worker: Worker) -> None:
    options: Any = {"include_usage": True}
    stream = await client.chat.completions.create(model="qwen-vl", messages=ask(), stream=True, stream_options=options)
    chunks = [chunk async for chunk in stream]

    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == f"1 x 532x392 #dc1e1e; {PROMPT}"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert [c.usage for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0


async def test_langchain_streams(url: str, worker: Worker) -> None:
    from langchain_openai import ChatOpenAI  # whose import takes as long as ten tests

    chat = ChatOpenAI(model="qwen-vl", base_url=f"{url}/v1", api_key="EMPTY", max_retries=0, stream_usage=True)  # type: ignore[arg-type]
    pieces = [piece async for piece in chat.astream([("user", [TEXT, image()])])]

    assert "".join(piece.text for piece in pieces) == f"1 x 532x392 #dc1e1e; {PROMPT}"
    assert sum(piece.usage_metadata["output_tokens"] for piece in pieces if piece.usage_metadata) > 0


@pytest.mark.parametrize("prompt", ["!fail", "!long"])
async def test_a_stream_of_a_job_that_fails_ends_with_its_error(client: AsyncOpenAI, worker: Worker, prompt: str) -> None:
    stream = await client.chat.completions.create(
        model="qwen-vl", messages=ask(image(), {"type": "text", "text": prompt}), stream=True
    )
    with pytest.raises(openai.APIError) as caught:
        _ = [chunk async for chunk in stream]

    assert caught.value.code == {"!fail": "server_error", "!long": "context_length_exceeded"}[prompt]


async def test_a_stream_that_is_left_cancels_its_job(client: AsyncOpenAI, store: JobStore, worker: Worker) -> None:
    stream = await client.chat.completions.create(
        model="qwen-vl", messages=ask(image(), {"type": "text", "text": "!slow 60"}), stream=True
    )
    await anext(aiter(stream))
    await until(lambda: _is(worker.engine.running == 1))
    await stream.close()
    ((job,), _) = await listed(store, owner="local", limit=5)

    assert (await until(lambda: _ended(store, job.id))).status is JobStatus.CANCELLED


async def test_a_stream_whose_gateway_leaves_ends_with_an_error(settings: Settings, worker: Worker, store: JobStore) -> None:
    async with serving(settings) as (http, process), AsyncOpenAI(base_url=f"{http.base_url}/v1", api_key="EMPTY") as client:
        stream = await client.chat.completions.create(
            model="qwen-vl", messages=ask(image(), {"type": "text", "text": "!slow 60"}), stream=True
        )
        await until(lambda: _is(worker.engine.running == 1))
        process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError) as caught:
            _ = [chunk async for chunk in stream]
    ((job,), _) = await listed(store, owner="local", limit=5)

    assert caught.value.code == "restarting"
    assert (await until(lambda: _ended(store, job.id))).status is JobStatus.CANCELLED


async def test_a_worker_lost_in_the_middle_of_a_stream_costs_no_text(
    client: AsyncOpenAI, settings: Settings, store: JobStore
) -> None:
    """The engine dies once half of the text is told; the job runs again, and the stream goes on where it was."""
    words = " ".join(f"w{n}" for n in range(40))
    async with Worker(settings).running() as worker:
        stream = await client.chat.completions.create(
            model="qwen-vl", messages=ask(image(), {"type": "text", "text": f"!speak 0.02 {words}"}), stream=True
        )
        told = ""
        async for chunk in stream:
            told += chunk.choices[0].delta.content or ""
            if told and len(worker.engines) == 1:
                worker.engine._dead.set()

    assert len(worker.engines) == 2
    assert told == f"1 x 532x392 #dc1e1e; !speak 0.02 {words}"
