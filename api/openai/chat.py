"""OpenAI's chat and models: translated into jobs on the same queue, and the jobs' ends translated back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any, Literal

import structlog
from fastapi import APIRouter, Request, Response
from redis.exceptions import RedisError

from api.authentication import KeyedRoute, OwnerDep
from api.error_responses import openai_error
from api.idempotency import IdempotencyKeyDep
from api.openai import answers
from api.openai.chat_request import ChatRequest
from api.openai.chat_to_job import CHAT_START_DEADLINE_S, to_job
from api.openai.media_report import seen
from api.openai.streams import follow_text
from api.openai.tools import Calls, CallStream, message_of, with_ids
from api.services import Services, ServicesDep
from api.sse import STREAMED, EventStream, written
from api.submit import submit
from shared.errors import (
    CancelledByClient,
    HungUp,
    InvalidRequest,
    KeyInvalid,
    Restarting,
    SightlineError,
    UnsupportedFormat,
    job_error,
)
from shared.fields import DAY_S
from shared.jobs import Choice, Job, JobRequest, Likely, Output, Priority, Usage
from shared.sampling_params import refuse_beyond_transformers

log = structlog.get_logger()
NO_CALLS = Calls("none")
router = APIRouter(prefix="/v1", tags=["openai"], route_class=KeyedRoute)


@router.get("/models", response_model=answers.Models)
async def list_models(services: ServicesDep) -> dict[str, Any]:
    """List what ready workers answer as; while none is there, the model whose jobs are taken and wait."""
    return {"object": "list", "data": [_model(name) for name in await services.models.ready()]}


@router.get("/models/{name:path}", response_model=answers.Model)
async def get_model(name: str, services: ServicesDep) -> dict[str, Any]:
    """Read what is known of a model."""
    await services.models.check(name)
    return _model(name)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "sightline"}


@router.post("/chat/completions", response_model=answers.ChatCompletion, responses=STREAMED)
async def create_chat_completion(
    body: ChatRequest, request: Request, services: ServicesDep, owner: OwnerDep, idempotency_key: IdempotencyKeyDep = None
) -> dict[str, Any] | Response:
    """Answer a chat. It waits on the queue ahead of other jobs; a client that hangs up cancels it."""
    interactive = Priority.INTERACTIVE
    job_id, created_at = await submit_chat(body, services, owner=owner, priority=interactive, idempotency_key=idempotency_key)
    if body.stream:
        if created_at is None:
            created_at = (await services.store.get(job_id, owner=owner)).created_at
        chunks = chat_chunks(body, job_id, created_at, services)
        return EventStream(chunks, services.open_requests, owner=owner, farewell=_error_event)
    job = await wait_or_cancel(job_id, request, services, owner=owner)
    return completion(job, finished_output(job), model=body.model, calls=body.calls)


async def submit_chat(
    chat: ChatRequest,
    services: Services,
    *,
    owner: str,
    priority: Priority,
    deadline_s: int = CHAT_START_DEADLINE_S,
    **how: Any,
) -> tuple[str, float | None]:
    """Submit a chat as a job; see :func:`api.submit.submit`."""
    job = translate(chat, services, deadline_s=deadline_s)
    watched = bool(chat.stream)
    return await submit_openai(job, services, owner=owner, priority=priority, watched=watched, **how)


def translate(chat: ChatRequest, services: Services, *, deadline_s: int) -> JobRequest:
    """Translate a chat into a job's request; see :func:`api.openai.chat_to_job.to_job`."""
    return to_job(chat, start_deadline_s=deadline_s, max_model_len=services.settings.max_model_len)


async def submit_openai(
    job: JobRequest, services: Services, *, owner: str, priority: Priority, **how: Any
) -> tuple[str, float | None]:
    """Submit a translated request, unless no living worker could draw its text as it asks."""
    try:
        refuse_beyond_transformers(job.sampling)
    except (InvalidRequest, UnsupportedFormat):
        if {worker.get("engine", {}).get("name") for worker in await services.workers.workers()} == {"transformers"}:
            raise
    return await submit(job, services, owner=owner, priority=priority, chat=True, **how)


async def wait_or_cancel(job_id: str, request: Request, services: Services, *, owner: str) -> Job:
    """Wait for a job's end; where the request ends before, as :meth:`OpenRequests.wait` says, the job is cancelled."""
    ending = services.waiter.wait(job_id, owner=owner, wait_s=DAY_S)
    try:
        return await services.open_requests.wait(ending, request.receive, owner)
    except (asyncio.CancelledError, HungUp, KeyInvalid, Restarting):
        await asyncio.shield(services.background.add(cancel_job(job_id, services)))
        raise


async def cancel_job(job_id: str, services: Services) -> None:
    """Cancel the job of a client that left; while Redis is away it runs on."""
    with suppress(RedisError):
        await services.store.cancel(job_id, CancelledByClient())


def finished_output(job: Job) -> Output:
    """Give what a job produced, or raise what it failed with."""
    if job.output and job.status == "succeeded":
        return job.output
    raise job_error(job.error) if job.error else CancelledByClient()


def completion(job: Job, output: Output, *, model: str, calls: Calls = NO_CALLS) -> dict[str, Any]:
    """Make the body of a chat's answer."""
    choices: list[dict[str, Any]] = []
    for index, choice in enumerate((output, *output.others)):
        message = message_of(calls, choice.text, f"{job.id}{index or ''}")
        reason = finish_reason(choice, called=calls.mode != "named" and "tool_calls" in message)
        logprobs = logprobs_of(choice)
        choices.append({"index": index, "message": message, "finish_reason": reason, "logprobs": logprobs, **_why(choice)})
    return {
        "id": completion_id(job.id),
        "object": "chat.completion",
        "created": int(job.created_at),
        "model": model,
        "choices": choices,
        "usage": usage(output.usage),
        **seen(output),
    }


async def chat_chunks(chat: ChatRequest, job_id: str, created_at: float, services: Services) -> AsyncGenerator[bytes]:
    """Give a stream's events: role, pieces of the text, end, count. A stream that is left cancels its job."""
    head = {"id": completion_id(job_id), "object": "chat.completion.chunk", "created": int(created_at), "model": chat.model}

    def chunk(delta: dict[str, Any] | None, more: dict[str, Any] | None = None, **end: Any) -> bytes:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": None, "logprobs": None, **end}]
        counts = {"usage": None} if chat.include_usage else {}
        return written(head | {"choices": choices} | counts | (more or {}))

    stream, calls = CallStream(chat.calls), chat.calls
    try:
        yield chunk({"role": "assistant", "content": ""})
        async with aclosing(follow_text(job_id, services)) as news:
            async for piece in news:
                if isinstance(piece, str):
                    for delta in stream.add(piece):
                        yield chunk(with_ids(delta, job_id))
                    continue
                output = finished_output(piece)
                for delta in stream.end():
                    yield chunk(with_ids(delta, job_id))
                reason = finish_reason(output, called=calls.mode != "named" and stream.has_called)
                yield chunk({}, seen(output), finish_reason=reason, **_why(output))
                if chat.include_usage:
                    yield chunk(None, {"usage": usage(output.usage)})
        yield written("[DONE]")
    except SightlineError as error:
        yield _error_event(error)
    except Exception:  # the seam: a stream that just ended would look whole
        log.exception("stream.crashed", job_id=job_id)
        yield _error_event(SightlineError())
    except (asyncio.CancelledError, GeneratorExit):
        await asyncio.shield(services.background.add(cancel_job(job_id, services)))
        raise


def _error_event(error: SightlineError) -> bytes:
    return written({"error": openai_error(error)[1]})


def completion_id(job_id: str) -> str:
    """Name a chat after its job: GET /v1/jobs/job_<the same> has more about it."""
    return job_id.replace("job_", "chatcmpl-", 1)


def logprobs_of(choice: Choice) -> dict[str, Any] | None:
    """Give the probabilities of a text's tokens, where they were asked for."""
    if not choice.logprobs:
        return None

    def told(one: Likely) -> dict[str, Any]:
        return {"token": one.token, "logprob": one.logprob, "bytes": list(one.token.encode())}

    content = [told(one) | {"top_logprobs": [told(likely) for likely in one.top]} for one in choice.logprobs]
    return {"content": content, "refusal": None}


def _why(output: Choice) -> dict[str, Any]:
    """Say, in vLLM's field, what OpenAI has no word for: the text began to repeat itself."""
    return {"stop_reason": "repetition"} if output.finish_reason == "repetition" else {}


def finish_reason(output: Choice, *, called: bool = False) -> Literal["stop", "length", "tool_calls"]:
    """Say in OpenAI's words why the text ended; ``called``: the model chose to call."""
    if output.finish_reason == "length":
        return "length"
    return "tool_calls" if called else "stop"


def usage(counts: Usage) -> dict[str, Any]:
    """Count tokens as OpenAI's API does; pixels are among the prompt's."""
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.output_tokens,
        "total_tokens": counts.prompt_tokens + counts.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
