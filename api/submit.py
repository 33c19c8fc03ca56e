"""The one way in for every job: check it, store its media, write its record, which rings a worker."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import structlog
from pydantic_core import PydanticSerializationError

from api.intake import take_in
from api.services import Services
from shared.errors import InvalidRequest, SightlineError
from shared.jobs import JobRequest, Priority
from shared.messages import media_parts, references_of
from shared.store.batch_leases import Lease
from shared.store.ids import new_id
from shared.tracing import job_facts, tracer

log = structlog.get_logger()


async def submit(  # noqa: PLR0913  # each is a fact of its own
    body: JobRequest,
    services: Services,
    *,
    owner: str,
    idempotency_key: str | None = None,
    priority: Priority = Priority.DEFAULT,
    chat: bool = False,
    watched: bool = False,
    response: dict[str, Any] | None = None,
    retry_of: str | None = None,
    job_id: str | None = None,
    lease: Lease | None = None,
    link: str = "",
) -> tuple[str, float | None]:
    """Accept a job.

    Args:
        body: as the client sent it.
        services: of the gateway.
        owner: whose job it is.
        idempotency_key: makes a repetition harmless.
        priority: which jobs it may overtake.
        chat: it is a chat, which may come without media.
        watched: its text is wanted while it is generated.
        response: what the response that it is made as says of its request.
        retry_of: the job that it tries anew.
        job_id: of a job that may have been submitted before, and is not submitted twice.
        lease: of the batch whose line it is; a runner that has lost it submits nothing.
        link: the ``traceparent`` of that batch.

    Returns:
        The job's id, and when it was created (Unix seconds); None instead where it is an earlier job with the same key.

    Raises:
        InvalidRequest: one of its kinds; nothing is left behind then.
        QueueFull, RateLimited: it has to come again later.
        LeaseLost: the batch is another runner's by now, and the job's pictures may be, too.
    """
    job_id = job_id or new_id("job")
    with tracer().span("create job", "producer", {"sightline.batch.id": lease.batch_id} if lease else None, link=link) as span:
        stored, inline = await take_in(body, job_id, services, owner=owner, chat=chat)
        span.tell(job_facts("create", job_id, body.model or services.settings.served_model_name, priority))
        try:
            idempotency = (idempotency_key, await _fingerprint(body, services, owner)) if idempotency_key else None
            for name, data in inline.items():
                await services.blobs.put_bytes(name, data)
            given_id, created_at = await services.store.submit(
                stored,
                services.settings,
                owner=owner,
                job_id=job_id,
                idempotency=idempotency,
                priority=priority,
                watched=watched,
                response=response,
                retry_of=retry_of,
                lease=lease,
                traceparent=tracer().traceparent(),
            )
        except SightlineError:  # refused; after a lost reply the job may stand, and needs its files
            await services.blobs.discard(*inline)
            raise
        except PydanticSerializationError as error:  # the record could not be written; Python's JSON reader let it in
            await services.blobs.discard(*inline)
            msg = "a text holds half a surrogate pair, which is no character"
            raise InvalidRequest(msg) from error
        replayed = created_at is None
        if replayed:
            span.tell({"messaging.message.id": given_id})
            await services.blobs.discard(*inline)
        log.info("job.accepted", job_id=given_id, replayed=replayed, priority=priority)
    return given_id, created_at


async def _fingerprint(body: JobRequest, services: Services, owner: str) -> str:
    """Name what is asked for. An upload counts as its content: who sends a file a second time asks for the same."""
    text = body.model_dump_json(serialize_as_any=True)  # files of either kind, too, which no record has
    for reference in (reference for part in media_parts(body.messages) for reference in references_of(part)):
        if reference.startswith("file-"):
            upload = await services.uploads.get(reference, owner=owner)
            text = text.replace(json.dumps(reference), json.dumps(f"sha256:{upload.sha256}"))
    return sha256(text.encode()).hexdigest()
