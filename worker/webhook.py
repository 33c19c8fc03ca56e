"""Hands events over: signed as Standard Webhooks 1.0.0 says, retried on its schedule, never in a GPU slot."""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import AsyncExitStack, suppress

import httpx
import ssrfguard
import structlog
from redis.exceptions import RedisError

from shared.database import connect
from shared.errors import Gone, NotFound
from shared.events import make_event
from shared.outbox import Delivery, Outbox
from shared.settings import Settings
from shared.signing import sign
from shared.store import JobStore
from shared.urls import make_client

log = structlog.get_logger()

#: Delays before each attempt after the first, in seconds. Source: Standard Webhooks 1.0.0, "Reliability".
SCHEDULE_S = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
JITTER = 0.2  #: so that receivers that came back are not hit by everybody at once
POLL_S = 1.0
MAX_DELIVERIES = 64  #: at a time


class Sender:
    """Delivers due events; any number of senders may run."""

    def __init__(self, settings: Settings) -> None:
        """Wire the parts together; :meth:`serve` starts them.

        Raises:
            ValueError: the secret is not base64.
        """
        self._settings = settings
        self._secret = settings.webhook_secret.get_secret_value() if settings.webhook_secret else ""
        sign(self._secret, event_id="evt", at_s=0, body=b"")
        self._redis = connect(settings)
        self._store = JobStore(self._redis)
        self._outbox = Outbox(self._redis)
        self._client = make_client(settings, timeout_s=settings.webhook_timeout_s)
        self._slots = asyncio.Semaphore(MAX_DELIVERIES)
        self._tasks: set[asyncio.Task[None]] = set()
        self.ready = asyncio.Event()

    async def serve(self) -> None:
        """Look for due deliveries until cancelled; doorbells only make the first attempt come sooner."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._redis.aclose)
            stack.push_async_callback(self._client.aclose)
            self.ready.set()
            while True:
                with suppress(RedisError):
                    for event_id in await self._outbox.due(MAX_DELIVERIES):
                        task = asyncio.ensure_future(self.run(event_id))
                        self._tasks.add(task)
                        task.add_done_callback(self._tasks.discard)
                await asyncio.sleep(POLL_S)

    async def drain(self) -> None:
        """Finish the deliveries under way: each is bounded by its own time-out."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def run(self, event_id: str) -> None:
        """Deliver one event if it is due and no other sender has it."""
        async with self._slots:
            try:
                delivery = await self._outbox.attempt(event_id, lease_s=2 * self._settings.webhook_timeout_s)
                if delivery is not None:
                    await self._deliver(delivery)
            except RedisError:
                log.warning("store.unreachable", event_id=event_id)

    async def _deliver(self, delivery: Delivery) -> None:
        bound = log.bind(event_id=delivery.event_id, job_id=delivery.job_id, attempt=delivery.attempt)
        try:
            job, url = await self._store.get(delivery.job_id), await self._outbox.webhook_url(delivery.job_id)
        except (NotFound, Gone):
            await self._outbox.delivered(delivery)  # the job is past its retention: there is nothing left to tell
            return
        body = json.dumps(make_event(delivery.type, delivery.created_at, job), ensure_ascii=False).encode()
        code = await self._post(url or "", delivery.event_id, body)
        if httpx.codes.is_success(code):
            bound.info("webhook.delivered", code=code)
            await self._outbox.delivered(delivery)
        elif code == httpx.codes.GONE or delivery.attempt > len(SCHEDULE_S):
            bound.warning("webhook.given_up", code=code)
            await self._outbox.delivered(delivery)
        else:
            delay_s = SCHEDULE_S[delivery.attempt - 1] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  # jitter, no secret
            bound.warning("webhook.failed", code=code, next_in_s=round(delay_s))
            await self._outbox.postpone(delivery, delay_s)

    async def _post(self, url: str, event_id: str, body: bytes) -> int:
        """Post once; 0 stands for no answer at all. The answer's body is not read."""
        at_s = int(time.time())
        headers = {
            "content-type": "application/json",
            "webhook-id": event_id,
            "webhook-timestamp": str(at_s),
            "webhook-signature": sign(self._secret, event_id=event_id, at_s=at_s, body=body),
        }
        try:
            async with (
                asyncio.timeout(self._settings.webhook_timeout_s),
                self._client.stream("POST", url, content=body, headers=headers) as answer,
            ):
                return answer.status_code
        except (httpx.HTTPError, httpx.InvalidURL, ssrfguard.SSRFGuardError, OSError, TimeoutError):
            return 0
