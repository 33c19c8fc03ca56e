"""What the routes are given: the parts of the gateway, wired once when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request

from api.metrics import Scrape
from api.open_requests import OpenRequests
from api.openai.models import Models
from api.waiter import JobWaiter
from shared.aio import Background, Pulse
from shared.blobs import Blobs
from shared.settings import Settings
from shared.store.api_keys import ApiKeys
from shared.store.batches import Batches
from shared.store.check import StoreCheck
from shared.store.clock import Watch
from shared.store.connection import Client
from shared.store.endpoints import Endpoints
from shared.store.event_log import EventLog
from shared.store.jobs import JobStore
from shared.store.outbox import Outbox
from shared.store.presence import Presence
from shared.store.selection import Selection
from shared.store.tallies import Tallies
from shared.store.uploads import Uploads
from shared.store.usage import Usage
from shared.store.workers import WorkerRegistry


@dataclass(frozen=True)
class Services:
    """The gateway's services, alive as long as it is."""

    settings: Settings
    redis: Client
    clock: Watch
    presence: Presence
    models: Models
    check: StoreCheck
    store: JobStore
    selection: Selection
    keys: ApiKeys
    usage: Usage
    batches: Batches
    uploads: Uploads
    workers: WorkerRegistry
    blobs: Blobs
    waiter: JobWaiter
    events: EventLog
    endpoints: Endpoints
    outbox: Outbox
    tallies: Tallies
    scrape: Scrape
    open_requests: OpenRequests
    background: Background = field(default_factory=Background)
    pulse: Pulse = field(default_factory=Pulse)


def make_services(settings: Settings, redis: Client, kind: str = "gateway") -> Services:
    """Wire the parts, for a gateway or for a process that runs ``batches``."""
    store, workers, keys = JobStore(redis), WorkerRegistry(redis), ApiKeys(redis)
    tallies = Tallies(redis)
    return Services(
        settings=settings,
        redis=redis,
        clock=Watch(redis),
        presence=Presence(redis, kind),
        models=Models(workers, settings.served_model_name),
        check=StoreCheck(redis),
        store=store,
        selection=Selection(redis),
        keys=keys,
        usage=Usage(redis),
        batches=Batches(redis),
        uploads=Uploads(redis),
        workers=workers,
        blobs=Blobs(settings.blobs_url, min_free_bytes=settings.min_free_bytes),
        waiter=JobWaiter(store),
        events=EventLog(redis),
        endpoints=Endpoints(redis),
        outbox=Outbox(redis),
        tallies=tallies,
        scrape=Scrape(store, tallies, workers),
        open_requests=OpenRequests(keys),
    )


def services_of(request: Request) -> Services:
    """Give the parts of the gateway that a request came to."""
    return cast("Services", request.app.state.services)


# Coroutines, though they wait for nothing: FastAPI sends plain functions to a thread, which costs more than all they do.
async def get_parts(request: Request) -> Services:
    """Give the parts to a route."""
    return services_of(request)


ServicesDep = Annotated[Services, Depends(get_parts)]
