"""Hands events over: signed as Standard Webhooks 1.0.0 says, retried on its schedule, never in a GPU slot."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass
from http import HTTPStatus

import structlog
from redis.exceptions import RedisError

from shared.aio import cancel_all
from shared.errors import Gone, NotFound, RecordUnreadable
from shared.events import make_event
from shared.settings import Settings
from shared.signing import sign
from shared.store import clock
from shared.store.connection import connect
from shared.store.endpoints import Endpoints
from shared.store.jobs import JobStore
from shared.store.outbox import Delivery, Outbox, Verdict
from shared.urls import make_client
from shared.webhook_client import Answer, post_event

log = structlog.get_logger()

JITTER = 0.2  #: so that receivers that came back are not hit by everybody at once
POLL_S = 0.2  #: between two looks for what is due again, or was not heard of
LISTEN_AGAIN_S = 1.0  #: after the connection was lost
MAX_DELIVERIES = 256  #: at a time; connections wait, they hardly cost anything
MAX_TO_TARGET = 4  #: at a time to one target: a receiver that hangs holds 4 slots of 256
TARGETS_AT_ONCE = 1000
OPEN_AFTER = 5  #: failures in a row after which a target is left alone for a while, then gets one delivery at a time
PAUSE_S, MAX_PAUSE_S = 10.0, 600.0  #: doubled by each further failure
MAX_RETRY_AFTER_S = 86_400.0
DISABLE_AFTER_S = 5 * 86_400.0  #: as Svix; nothing has been taken in all that time


@dataclass(frozen=True)
class Decision:
    """What an answer leads to. Times are seconds from now."""

    verdict: Verdict
    next_s: float = 0.0
    pause_s: float = 0.0
    reason: str = ""


def decide(answer: Answer, delivery: Delivery, *, schedule_s: tuple[float, ...], jitter: float) -> Decision:
    """Judge an attempt. Pure.

    Args:
        answer: what came of it.
        delivery: which attempt it was, and how its target has been doing.
        schedule_s: delays before each attempt after the first.
        jitter: what the delay is multiplied by.
    """
    if answer.is_success:
        return Decision("delivered")
    if answer.code == HTTPStatus.GONE:
        reason = "the receiver answered 410 Gone"
        return Decision("disabled" if delivery.endpoint_id else "given_up", reason=reason)
    if delivery.endpoint_id and delivery.failing_s >= DISABLE_AFTER_S:
        days, last = DISABLE_AFTER_S / 86_400, answer.error or answer.code
        reason = f"every delivery has failed for {days:.0f} days, the last one with {last}"
        return Decision("disabled", reason=reason)
    asked_s = min(answer.retry_after_s, MAX_RETRY_AFTER_S)
    beyond = delivery.failures + 1 - OPEN_AFTER
    pause_s = max(asked_s, min(PAUSE_S * 2.0**beyond, MAX_PAUSE_S) if beyond >= 0 else 0.0)
    if delivery.attempt > len(schedule_s):
        return Decision("given_up", pause_s=pause_s)
    return Decision("retry", max(schedule_s[delivery.attempt - 1] * jitter, asked_s), pause_s)


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
        self._endpoints = Endpoints(self._redis)
        self._client = make_client(settings, timeout_s=settings.webhook_timeout_s)
        self._tasks: set[asyncio.Task[None]] = set()
        self._to_target: Counter[str] = Counter()
        self._rung = asyncio.Event()
        self._leaving = False

    async def serve(self) -> None:
        """Deliver what is due until told to leave; then finish the deliveries under way."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.close)
            stack.push_async_callback(cancel_all, self._tasks)
            chores = {asyncio.create_task(chore) for chore in (clock.Watch(self._redis).keep(), self._listen())}
            stack.push_async_callback(cancel_all, chores)
            while not self._leaving:
                self._rung.clear()
                try:
                    await self.send_due()
                    if await self._outbox.drop_some():
                        self._rung.set()
                except RedisError:
                    log.warning("store.unreachable", chore="send_due")
                except Exception:
                    log.exception("chore.crashed", chore="send_due")
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._rung.wait()
            await self.drain()

    def leave(self) -> None:
        """Take nothing more; called again, leave the deliveries under way to another sender, after their leases."""
        if self._leaving:
            for task in self._tasks:
                task.cancel()
        self._leaving = True
        self._rung.set()

    async def _listen(self) -> None:
        """Look at once when something has become due."""
        while True:
            try:
                async with aclosing(self._outbox.hear_of_due()) as heard:
                    async for _ in heard:
                        self._rung.set()
            except (RedisError, OSError):
                log.warning("store.unreachable", chore="listen")
            await asyncio.sleep(LISTEN_AGAIN_S)

    async def drain(self) -> None:
        """Finish the deliveries under way: each is bounded by its own time-out."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()
        await self._redis.aclose()

    async def send_due(self) -> None:
        """Begin the deliveries that are due, as many as there are slots, and few to any one target."""
        for target in await self._outbox.due_targets(TARGETS_AT_ONCE):
            free = min(MAX_TO_TARGET - self._to_target[target], MAX_DELIVERIES - len(self._tasks))
            if free <= 0:
                continue
            # Longer than a delivery may take, so that only a dead sender's deliveries are taken by another.
            lease_s = 2 * self._settings.webhook_timeout_s
            for delivery in await self._outbox.take(target, free, lease_s=lease_s, open_after=OPEN_AFTER):
                self._to_target[target] += 1
                task = asyncio.ensure_future(self._deliver(delivery))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            await self._attempt(delivery)
        except RedisError:
            log.warning("store.unreachable", event_id=delivery.event_id)  # the lease ends, and it is delivered again
        except Exception:  # the seam: a delivery that cannot be made up ends, and is not taken again and again
            log.exception("webhook.crashed", event_id=delivery.event_id)
            with suppress(RedisError):
                at_s = await clock.now_s(self._redis)
                failed = Answer(0, 0, error="internal").log(attempt=delivery.attempt, at=at_s)
                await self._outbox.settle(delivery, "given_up", log=failed)
        finally:
            self._to_target[delivery.target] -= 1
            if not self._to_target[delivery.target]:
                del self._to_target[delivery.target]
            self._rung.set()

    async def _attempt(self, delivery: Delivery) -> None:
        url, payload, secrets = delivery.url, delivery.payload, [self._secret]
        if delivery.endpoint_id:
            try:
                endpoint = await self._endpoints.get(delivery.endpoint_id)
            except NotFound:  # it was deleted meanwhile, and this delivery given up
                return
            url, payload, secrets = endpoint.url, endpoint.payload, endpoint.secrets
        body = await self._body(delivery, payload)
        at_s = await clock.now_s(self._redis)
        answer = await post_event(
            *(self._client, url, body),
            event_id=delivery.event_id,
            secrets=secrets,
            at_s=at_s,
            timeout_s=self._settings.webhook_timeout_s,
        )
        jitter = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  # no secret
        schedule_s = self._settings.webhook_schedule_s
        decision = decide(answer, delivery, schedule_s=schedule_s, jitter=jitter)
        await self._outbox.settle(
            delivery,
            decision.verdict,
            log=answer.log(attempt=delivery.attempt, at=at_s),
            next_s=decision.next_s,
            pause_s=decision.pause_s,
            reason=decision.reason,
        )
        facts = {"event_id": delivery.event_id, "job_id": delivery.job_id, "attempt": delivery.attempt, "ms": answer.ms}
        level = log.info if answer.is_success else log.warning
        next_in_s = round(decision.next_s)
        level("webhook.attempted", verdict=decision.verdict, code=answer.code, error=answer.error, next_in_s=next_in_s, **facts)

    async def _body(self, delivery: Delivery, payload: str) -> bytes:
        try:
            job = await self._store.get(delivery.job_id)
        except (NotFound, Gone, RecordUnreadable):  # past its retention: the news of its end is all that is left
            job = None
        facts = delivery.type, delivery.created_at, delivery.job_id, job
        event = make_event(*facts, event_id=delivery.event_id, thin=payload == "thin")
        return json.dumps(event, ensure_ascii=False).encode()
