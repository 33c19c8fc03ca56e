"""OpenAI's batches: a file of chats in, files of answers out. :mod:`api.batches.runner` runs them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from api.authentication import KeyedRoute, OwnerDep
from api.files import page
from api.openai import answers
from api.services import ServicesDep
from shared.errors import AlreadyFinal, InvalidRequest
from shared.store.batches import Batch
from shared.tracing import tracer

router = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=KeyedRoute)


class BatchRequest(BaseModel):
    """The body of POST /v1/batches; unknown fields mean nothing here."""

    model_config = ConfigDict(frozen=True)

    input_file_id: str
    endpoint: Literal["/v1/chat/completions"]
    completion_window: Literal["24h"]
    metadata: Annotated[dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=16)] | None = None


@router.post("", response_model=answers.Batch)
async def create_batch(body: BatchRequest, services: ServicesDep, owner: OwnerDep) -> dict[str, Any]:
    """Start a batch. Its lines are bulk jobs: everything else goes before them."""
    upload = await services.uploads.get(body.input_file_id, owner=owner, param="input_file_id")
    if upload.purpose != "batch":
        msg = f"the file {upload.id} was uploaded with the purpose {upload.purpose}; a batch's input needs the purpose batch"
        raise InvalidRequest(msg, param="input_file_id")
    settings, facts = services.settings, body.model_dump(exclude={"metadata"})
    with tracer().span("create batch", "producer") as span:
        batch = await services.batches.create(
            *(owner, facts),
            window_s=settings.completion_window_s,
            max_open=settings.max_open_batches,
            metadata=body.metadata or {},
            traceparent=tracer().traceparent(),
        )
        span.tell({"sightline.batch.id": batch.id})
    return view(batch)


@router.get("/{batch_id}", response_model=answers.Batch)
async def get_batch(batch_id: str, services: ServicesDep, owner: OwnerDep) -> dict[str, Any]:
    """Read a batch."""
    return view(await services.batches.get(batch_id, owner=owner))


@router.get("", response_model=answers.BatchPage)
async def list_batches(
    services: ServicesDep, owner: OwnerDep, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str | None = None
) -> dict[str, Any]:
    """List batches, newest first; ``after`` takes the ``last_id`` of the page before."""
    batches, more = await services.batches.list_batches(owner=owner, limit=limit, after=after)
    return page([view(batch) for batch in batches], more=more)


@router.post("/{batch_id}/cancel", response_model=answers.Batch)
async def cancel_batch(batch_id: str, services: ServicesDep, owner: OwnerDep) -> dict[str, Any]:
    """Cancel a batch: what is done is kept and written out, the rest is not begun."""
    await services.batches.get(batch_id, owner=owner)
    status = await services.batches.cancel(batch_id)
    if status not in {"validating", "in_progress", "cancelling"}:
        msg = f"the batch is already {status}"
        raise AlreadyFinal(msg)
    return view(await services.batches.get(batch_id, owner=owner))


def view(batch: Batch) -> dict[str, Any]:
    """Show a batch as OpenAI's API does; why one that is open does not go on stands among its errors, too."""
    names = ("in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at")
    ended = batch.status in {"completed", "failed", "expired", "cancelled"}
    waiting = [{"code": batch.waiting_code, "message": batch.waiting, "line": None, "param": None}]
    errors = batch.errors or (waiting if batch.waiting and not ended else [])
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status,
        "output_file_id": batch.file_ids.get("output") if ended else None,
        "error_file_id": batch.file_ids.get("error") if ended else None,
        "errors": {"object": "list", "data": errors} if errors else None,
        "request_counts": batch.counts,
        "metadata": batch.metadata or None,
        "created_at": batch.created_at,
        "expires_at": batch.expires_at,
        **{name: batch.stamps.get(name) for name in names},
    }
