"""Hands events over: signed as Standard Webhooks 1.0.0 says, retried on its schedule, never in a GPU slot."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, suppress

import structlog
from redis.exceptions import RedisError

from shared.address_guard import make_client
from shared.aio import cancel_all
from shared.errors import NotFound, RecordUnreadable
from shared.events import make_event, make_group_event
from shared.settings import Settings
from shared.signing import sign
from shared.store import clock
from shared.store.check import StoreCheck
from shared.store.connection import connect
from shared.store.deliveries import Delivery, Outcome
from shared.store.endpoints import Endpoints
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from shared.store.outbox import Outbox
from shared.store.presence import Presence
from shared.store.trouble_log import log_trouble
from shared.tracing import Span
from shared.webhook_client import Answer, post_event
from worker.webhooks.metrics import ATTEMPT_SECONDS, DELAY_SECONDS, UNDER_WAY
from worker.webhooks.retry_policy import OPEN_AFTER, decide
from worker.webhooks.tracing import tell_answer, told

log = structlog.get_logger()

JITTER = 0.2  #: so that receivers that came back are not hit by everybody at once
POLL_S = 0.5  #: between two looks for what is due again, or was not heard of
#: At least, between two trips to Redis: what ends meanwhile travels together. Shorter where somebody has more due than may be
#: under way to him: he is to get it as fast as he takes it.
GATHER_S, BUSY_GATHER_S = 0.02, 0.005
CHORE_S = 1.0  #: between two rounds of what is to be done beside
MAX_DELIVERIES = 256  #: at a time; connections wait, they hardly cost anything
MAX_TO_TARGET = 4  #: at a time to one target: a receiver that hangs holds 4 slots of 256
MORE_ATTEMPTS = 3  #: than the schedule has, if senders died; then it may be this delivery that they die of


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
        self.name = new_id("sender")
        self._redis = connect(settings)
        self._store = JobStore(self._redis)
        self.check = StoreCheck(self._redis)
        self._presence = Presence(self._redis, "webhooks")
        self._outbox = Outbox(self._redis)
        self._endpoints = Endpoints(self._redis)
        self._client = make_client(settings, timeout_s=settings.webhook_timeout_s)
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way: Counter[str] = Counter()  #: deliveries by target
        self._outcomes: list[Outcome] = []  #: that are not written down yet
        self._ahead_s = 0.0  #: what Redis's clock shows beyond this process's monotonic one
        self._writing = asyncio.Lock()
        self._rung = asyncio.Event()  #: there is something to write or to look at
        self._looks = True  #: whether something may be due that there is room for
        self._left = False  #: whether something was, and there was none
        self._leaving = False

    async def serve(self) -> None:
        """Deliver what is due until asked to leave; then finish the deliveries under way."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.close)
            stack.push_async_callback(cancel_all, self._tasks)
            chores = self._listen, self._clear_away, self._outbox.mind_clock
            keeping = {asyncio.create_task(_keep_doing(chore)) for chore in chores}
            keeping |= {asyncio.create_task(keep()) for keep in (clock.Watch(self._redis).keep, self._presence.keep)}
            stack.push_async_callback(cancel_all, keeping)
            while not self._leaving:
                self._rung.clear()
                await _do(self._turn)
                await asyncio.sleep(BUSY_GATHER_S if self._left else GATHER_S)
                try:
                    async with asyncio.timeout(POLL_S):
                        await self._rung.wait()
                except TimeoutError:
                    self._looks = True
            await self.drain()
            await cancel_all(keeping)
            await self._presence.leave()

    def leave(self) -> None:
        """Take nothing more; called again, leave the deliveries under way to another sender, after their leases."""
        if self._leaving:
            for task in self._tasks:
                task.cancel()
        self._leaving = True
        self._rung.set()

    async def drain(self) -> None:
        """Finish the deliveries under way: each is bounded by its own time-out."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await _do(self._write_down)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()
        await self._redis.aclose()

    # --- chores ---

    async def _listen(self) -> None:
        """Look at once when something has become due."""
        async with aclosing(self._outbox.hear_of_due()) as heard:
            async for _ in heard:
                self._looks = True
                self._rung.set()

    async def _clear_away(self) -> None:
        """Give up what was due to endpoints that are off, bit by bit, so that everybody else gets an answer in between."""
        while await self._outbox.discard_some():
            pass

    # --- what is due ---

    async def _turn(self) -> None:
        """Write down what has ended and take what is due, in one trip."""
        await asyncio.gather(self._write_down(), *([self.send_due()] if self._looks else []))

    async def _write_down(self) -> None:
        async with self._writing:  # whoever comes second knows that all before is written
            outcomes, self._outcomes = self._outcomes, []
            if not outcomes:
                return
            try:
                written = await self._outbox.settle(outcomes)
            except RedisError:  # said again: nothing is written twice
                self._outcomes = [*outcomes, *self._outcomes][-MAX_DELIVERIES:]
                raise
        for outcome, was_written in zip(outcomes, written, strict=True):
            if not was_written:
                log.warning("webhook.overtaken", event_id=outcome.delivery.event_id)

    async def send_due(self) -> None:
        """Begin the deliveries that are due, as many as there are slots, and few to any one target."""
        free = MAX_DELIVERIES - len(self._tasks)
        self._looks, self._left = False, True  # until the answer tells: what ends meanwhile makes room
        if free <= 0:
            return
        # Longer than a delivery may take, so that only a dead sender's deliveries are taken by another.
        lease_s = 2 * self._settings.webhook_timeout_s
        limits = {"limit": free, "most": MAX_TO_TARGET, "open_after": OPEN_AFTER}
        taken = await self._outbox.take(self.name, **limits, lease_s=lease_s, under_way=self._under_way)
        self._ahead_s = taken.now_s - time.monotonic()
        self._left = taken.left
        for delivery in taken.deliveries:
            self._under_way[delivery.target] += 1
            task = asyncio.ensure_future(self._deliver(delivery))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _deliver(self, delivery: Delivery) -> None:
        UNDER_WAY.inc()
        try:
            if outcome := await self._attempt(delivery):
                self._outcomes.append(outcome)
        except RedisError as error:
            log_trouble(error, event_id=delivery.event_id)  # the lease ends, and it is delivered again
        except Exception:  # the seam: a delivery that cannot be made up ends, and is not taken again and again
            log.exception("webhook.crashed", event_id=delivery.event_id)
            self._outcomes.append(self._not_sent(delivery, "internal"))
        finally:
            UNDER_WAY.dec()
            self._under_way -= Counter([delivery.target])  # which drops what comes to none
            self._looks = self._looks or self._left
            self._rung.set()

    async def _attempt(self, delivery: Delivery) -> Outcome | None:
        """Send once; gives what came of it, or None where the delivery was given up meanwhile."""
        if delivery.attempt > len(self._settings.webhook_schedule_s) + 1 + MORE_ATTEMPTS:
            return self._not_sent(delivery, "sender_lost")
        url, payload, secrets = delivery.url, delivery.payload, [self._secret]
        if delivery.endpoint_id:
            try:
                endpoint = await self._endpoints.get(delivery.endpoint_id)
            except NotFound:  # it was deleted, and this delivery given up
                return None
            url, payload, secrets = endpoint.url, endpoint.payload, endpoint.secrets
        with told(delivery, url) as span:
            return await self._post(delivery, url, self._body(delivery, payload), secrets, span)

    async def _post(self, delivery: Delivery, url: str, body: bytes, secrets: list[str], span: Span) -> Outcome:
        at_s, event_id, timeout_s = self._now_s, delivery.event_id, self._settings.webhook_timeout_s
        answer = await post_event(self._client, url, body, event_id=event_id, secrets=secrets, at_s=at_s, timeout_s=timeout_s)
        jitter = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  # no secret
        decision = decide(answer, delivery, schedule_s=self._settings.webhook_schedule_s, jitter=jitter)
        facts = {"event_id": event_id, "job_id": delivery.job_id, "attempt": delivery.attempt, "ms": answer.ms}
        level = log.info if answer.is_success else log.warning
        next_in_s = round(decision.next_s)
        level("webhook.attempted", verdict=decision.verdict, code=answer.code, error=answer.error, next_in_s=next_in_s, **facts)
        ATTEMPT_SECONDS.labels(decision.verdict).observe(answer.ms / 1000)
        if decision.verdict == "delivered":
            DELAY_SECONDS.observe(max(0.0, self._now_s - delivery.created_at))
        tell_answer(span, answer, decision.verdict)
        row = answer.log(attempt=delivery.attempt, at=at_s)
        return Outcome(delivery, decision.verdict, row, decision.next_s, decision.pause_s, decision.reason)

    @property
    def _now_s(self) -> float:
        """Give the time by Redis's clock: receivers refuse a signature that is minutes off."""
        return self._ahead_s + time.monotonic()

    def _not_sent(self, delivery: Delivery, error: str) -> Outcome:
        return Outcome(delivery, "given_up", Answer(0, 0, error=error).log(attempt=delivery.attempt, at=self._now_s))

    def _body(self, delivery: Delivery, payload: str) -> bytes:
        if delivery.type == "group.ended":
            return json.dumps(make_group_event(delivery.created_at, payload), ensure_ascii=False).encode()
        job = None  # past its retention: the news of its end is all that is left
        if delivery.type.startswith("job."):
            with suppress(RecordUnreadable):
                job = self._store.parse(delivery.job_id, delivery.record)
        facts = delivery.type, delivery.created_at, delivery.job_id, job
        event = make_event(*facts, event_id=delivery.event_id, thin=payload == "thin")
        return json.dumps(event, ensure_ascii=False).encode()


async def _do(step: Callable[[], Awaitable[object]]) -> None:
    """Do something that is tried again later, whatever happens."""
    try:
        await step()
    except (RedisError, OSError) as error:
        log_trouble(error, chore=step.__name__)
    except Exception:
        log.exception("chore.crashed", chore=step.__name__)


async def _keep_doing(chore: Callable[[], Awaitable[object]]) -> None:
    while True:
        await _do(chore)
        await asyncio.sleep(CHORE_S)
