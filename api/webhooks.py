"""Webhook endpoints and what was delivered; paths and shapes are those of the openai SDK's ``client.webhooks``."""

from __future__ import annotations

import json
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Query
from pydantic import Field, StringConstraints, field_validator

from api import answers
from api.authentication import KeyedRoute, OwnerDep
from api.error_responses import DESCRIBED
from api.services import ServicesDep
from shared.address_guard import check_url, make_client
from shared.errors import ReceiverSilent
from shared.events import make_event
from shared.fields import Strict
from shared.jobs import EndpointEvent, HookUrl, Payload
from shared.store import clock
from shared.store.ids import new_id
from shared.webhook_client import post_event

router = APIRouter(tags=["webhooks"], route_class=KeyedRoute)

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
EventTypes = Annotated[list[EndpointEvent], Field(min_length=1)]


class NewEndpoint(Strict):
    """An endpoint to register."""

    url: HookUrl
    event_types: EventTypes
    name: Name = "webhook"
    payload: Payload = "full"


class EndpointChange(Strict):
    """What to change of an endpoint; ``enabled`` puts one in use again that failures, or 410, had disabled."""

    url: HookUrl | None = None
    event_types: EventTypes | None = None
    name: Name | None = None
    payload: Payload | None = None
    enabled: bool | None = None

    @field_validator("enabled")
    @classmethod
    def _only_on(cls, value: bool | None) -> bool | None:  # noqa: FBT001  # pydantic's form
        if value is False:
            msg = "an endpoint is put out of use by deleting it"
            raise ValueError(msg)
        return value


class Rotation(Strict):
    """How to change the secret."""

    keep_old_secret_active_for_24_hours: bool = False


class Trial(Strict):
    """Which event to send as a sample."""

    event_type: EndpointEvent


class Recovery(Strict):
    """From when on to deliver again what was not taken; Unix seconds."""

    since: Annotated[float, Field(ge=0, lt=2**33)]


@router.post("/v1/webhook_endpoints", response_model=answers.WebhookEndpointWithSecret)
async def create_endpoint(body: NewEndpoint, services: ServicesDep, owner: OwnerDep) -> dict[str, Any]:
    """Register an endpoint. Its ``signing_secret`` is shown here, and never again."""
    check_url(body.url, services.settings, param="url")
    endpoint = await services.endpoints.create(
        owner=owner, name=body.name, url=body.url, events=list(body.event_types), payload=body.payload
    )
    return endpoint.view() | {"signing_secret": endpoint.secret}


@router.get("/v1/webhook_endpoints", response_model=answers.WebhookEndpointPage)
async def list_endpoints(
    services: ServicesDep, owner: OwnerDep, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str | None = None
) -> dict[str, Any]:
    """List the endpoints, oldest first; ``after`` takes the ``last_id`` of the page before."""
    page, more = await services.endpoints.list(owner=owner, limit=limit, after=after)
    ids = {"first_id": page[0].id, "last_id": page[-1].id} if page else {"first_id": None, "last_id": None}
    return {"object": "list", "data": [endpoint.view() for endpoint in page], "has_more": more, **ids}


@router.get("/v1/webhook_event_types", response_model=answers.WebhookEventTypes)
async def list_event_types() -> dict[str, Any]:
    """List the events that an endpoint may ask for."""
    return {"object": "list", "data": list(get_args(EndpointEvent))}


@router.get("/v1/webhook_endpoints/{endpoint_id}", response_model=answers.WebhookEndpoint)
async def get_endpoint(endpoint_id: str, services: ServicesDep, owner: OwnerDep) -> dict[str, Any]:
    """Read an endpoint; ``disabled_reason`` says why nothing is sent to it, where that is so."""
    return (await services.endpoints.get(endpoint_id, owner=owner)).view()


@router.post("/v1/webhook_endpoints/{endpoint_id}", response_model=answers.WebhookEndpoint)
async def update_endpoint(endpoint_id: str, body: EndpointChange, services: ServicesDep, owner: OwnerDep) -> dict[str, Any]:
    """Change an endpoint; deliveries that are due follow the change."""
    if body.url:
        check_url(body.url, services.settings, param="url")
    fields = body.model_dump(exclude_none=True, exclude={"enabled", "event_types"})
    if body.event_types:
        fields["events"] = body.event_types
    endpoint = await services.endpoints.update(endpoint_id, owner=owner, enable=bool(body.enabled), **fields)
    return endpoint.view()


@router.delete("/v1/webhook_endpoints/{endpoint_id}", response_model=answers.Deleted)
async def delete_endpoint(endpoint_id: str, services: ServicesDep, owner: OwnerDep) -> dict[str, Any]:
    """Delete an endpoint; what was due to it is given up."""
    await services.endpoints.delete(endpoint_id, owner=owner)
    return {"id": endpoint_id, "object": "webhook_endpoint.deleted", "deleted": True}


@router.post("/v1/webhook_endpoints/{endpoint_id}/rotate_secret", response_model=answers.WebhookEndpointWithSecret)
async def rotate_secret(
    endpoint_id: str, services: ServicesDep, owner: OwnerDep, body: Rotation | None = None
) -> dict[str, Any]:
    """Change the secret. Where the old one is kept, both sign for 24 hours: receivers can change over without a gap."""
    keep_old = bool(body and body.keep_old_secret_active_for_24_hours)
    endpoint = await services.endpoints.rotate(endpoint_id, owner=owner, keep_old=keep_old)
    return endpoint.view() | {"signing_secret": endpoint.secret}


@router.post(
    "/v1/webhook_endpoints/{endpoint_id}/test", response_model=answers.WebhookTest, responses={502: DESCRIBED["default"]}
)
async def test_endpoint(endpoint_id: str, body: Trial, services: ServicesDep, owner: OwnerDep) -> dict[str, Any]:
    """Send a sample event now, once, and tell what the receiver answered."""
    endpoint = await services.endpoints.get(endpoint_id, owner=owner)
    at_s, timeout_s = await clock.now_s(services.redis), services.settings.webhook_timeout_s
    event_id = new_id("evt")
    subject = new_id("batch" if body.event_type.startswith("batch.") else "job")
    sample = json.dumps(make_event(body.event_type, at_s, subject, None, event_id=event_id)).encode()
    async with make_client(services.settings, timeout_s=timeout_s) as client:
        answer = await post_event(
            *(client, endpoint.url, sample),
            event_id=event_id,
            secrets=endpoint.secrets,
            at_s=at_s,
            timeout_s=timeout_s,
        )
    if not answer.code:
        raise ReceiverSilent
    return {
        "object": "webhook_endpoint.test",
        "webhook_endpoint_id": endpoint.id,
        "event_type": body.event_type,
        "status_code": answer.code,
        "success": True,
    }


@router.post("/v1/webhook_endpoints/{endpoint_id}/recover", response_model=answers.WebhookRecovery)
async def recover(endpoint_id: str, body: Recovery, services: ServicesDep, owner: OwnerDep) -> dict[str, Any]:
    """Deliver what an endpoint was not handed since an instant, up to a week ago: after an outage, or when it is new."""
    endpoint = await services.endpoints.get(endpoint_id, owner=owner)
    n_due = await services.outbox.recover(endpoint.id, since=body.since)
    return {"object": "webhook_endpoint.recovery", "webhook_endpoint_id": endpoint.id, "deliveries": n_due}


@router.get("/v1/jobs/{job_id}/deliveries", response_model=answers.Deliveries)
async def list_deliveries(job_id: str, services: ServicesDep, owner: OwnerDep) -> dict[str, Any]:
    """Tell where a job's events went: each attempt with code, milliseconds and the first 2 kB of the answer."""
    job = await services.store.get(job_id, owner=owner)
    return {"object": "list", "data": await services.outbox.of_job(job.id)}


@router.post("/v1/jobs/{job_id}/deliveries/redeliver", status_code=202, response_model=answers.Deliveries)
async def redeliver(job_id: str, services: ServicesDep, owner: OwnerDep) -> dict[str, Any]:
    """Deliver a job's events again now, with the same ids, whether or not they were taken before."""
    job = await services.store.get(job_id, owner=owner)
    await services.outbox.redeliver(job.id)
    return {"object": "list", "data": await services.outbox.of_job(job.id)}
