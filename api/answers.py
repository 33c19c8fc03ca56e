"""What the gateway answers, for its description. Pure.

Answers go out as the routes build them, see :class:`api.authentication.KeyedRoute`; tests compare all that they get with these.
A field with a default is one that may be missing.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from shared import jobs
from shared.jobs import EndpointEvent, EngineInfo, Payload


class Error(BaseModel):
    """What went wrong and what to do, as clients of OpenAI's API read it."""

    message: str
    type: str
    param: str | None
    code: str


class JobUrls(BaseModel):
    """Where a job is read, cancelled and followed."""

    self: str
    cancel: str
    events: str


class Job(jobs.Job):
    """A job. Instants are Unix seconds, UTC."""

    error: Error | None = None  # type: ignore[assignment]  # a record has it as a mapping
    urls: JobUrls


class Counts(BaseModel):
    """Jobs by state."""

    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int


class Page(BaseModel):
    """A part of a list; ``after`` takes its ``last_id`` for the next one."""

    object: Literal["list"]
    has_more: bool
    first_id: str | None
    last_id: str | None


class JobPage(Page):
    """Jobs, the newest first; ``counts`` where they were asked for."""

    data: list[Job]
    counts: Counts | None = None


class ManyDone(BaseModel):
    """How many jobs matched, and for how many of them it was done; ``error`` says why the others were not tried anew."""

    object: Literal["jobs.cancel", "jobs.retry"]
    matched: int
    done: int
    dry_run: bool
    error: Error | None = None


class GroupWebhook(BaseModel):
    """Who hears when nothing of a group waits or runs."""

    url: str


class Group(BaseModel):
    """A group's jobs; ``per_s``: how many ended a second lately; ``left_s``: how long the rest takes so, or null."""

    object: Literal["group"]
    id: str
    counts: Counts
    per_s: float
    left_s: float | None
    webhook: GroupWebhook | None


class File(BaseModel):
    """A stored file. Instants are Unix seconds, UTC; ``media_type`` is what it is by its content."""

    object: Literal["file"]
    status: Literal["processed"]
    id: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    media_type: str
    sha256: str
    purpose: str


class FilePage(Page):
    """Files, the newest first."""

    data: list[File]


class Deleted(BaseModel):
    """What is no longer there."""

    id: str
    object: str
    deleted: Literal[True]


class WebhookEndpoint(BaseModel):
    """An address that hears of every job; ``disabled_reason`` says why nothing is sent to it, where that is so."""

    object: Literal["webhook_endpoint"]
    id: str
    created_at: int
    updated_at: int
    name: str
    url: str
    event_types: list[EndpointEvent]
    payload: Payload
    signing_secret_hint: str
    status: Literal["enabled", "disabled"]
    disabled_reason: str | None


class WebhookEndpointWithSecret(WebhookEndpoint):
    """An address with what its deliveries are signed with, which is shown once."""

    signing_secret: str


class WebhookEndpointPage(Page):
    """Addresses that hear of every job, the oldest first."""

    data: list[WebhookEndpoint]


class WebhookEventTypes(BaseModel):
    """What an endpoint may ask for."""

    object: Literal["list"]
    data: list[EndpointEvent]


class WebhookTest(BaseModel):
    """What a receiver answered to a sample."""

    object: Literal["webhook_endpoint.test"]
    webhook_endpoint_id: str
    event_type: EndpointEvent
    status_code: int
    success: Literal[True]


class WebhookRecovery(BaseModel):
    """How many deliveries were made due."""

    object: Literal["webhook_endpoint.recovery"]
    webhook_endpoint_id: str
    deliveries: int


class Attempt(BaseModel):
    """How a delivery was tried: when, and the status, milliseconds and the first 2 kB of the answer."""

    attempt: int | None
    at: float | None
    code: int | None
    ms: float | None
    error: str | None
    answer: str


class Delivery(BaseModel):
    """An event on its way to one address."""

    object: Literal["delivery"]
    id: str
    event_id: str
    event_type: str
    webhook_endpoint_id: str | None
    url: str | None
    status: str
    reason: str | None
    attempts: list[Attempt]
    next_attempt_at: float | None


class Deliveries(BaseModel):
    """Where a job's events went, the oldest first."""

    object: Literal["list"]
    data: list[Delivery]


class Worker(BaseModel):
    """A worker, as its last heartbeat tells of it."""

    id: str
    gpus: int
    phase: str
    model: str | None = None
    checkpoint: str | None = None
    clock_skew_s: float | None = None
    engine: EngineInfo | None = None
    jobs_in_flight: int | None = None
    places: int | None = None
    engine_running: int | None = None
    engine_waiting: int | None = None
    engine_running_peak: int | None = None
    engine_restarts: int | None = None


class Workers(BaseModel):
    """The workers that live."""

    object: Literal["list"]
    data: list[Worker]


class Queue(Counts):
    """Jobs by state, and how many workers they ask for; ``backlog_s`` is null while no worker's pace is known."""

    load: int
    oldest_age_s: float
    workers_ready: int
    workers_starting: int
    slots: int
    backlog_s: float | None
    desired_workers: int


class Alive(BaseModel):
    """The gateway answers."""

    status: Literal["ok"]


class Ready(Alive):
    """A job submitted now would run; ``warnings`` tell what works, but not as it should."""

    workers: int
    warnings: list[str]


class Version(BaseModel):
    """Which version this is."""

    version: str


class About(Version):
    """What this service is, and where to go on."""

    name: Literal["Sightline"]
    description: str
    links: dict[str, str]
