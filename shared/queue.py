"""The only place that configures Celery. Its messages are doorbells: a job's id and nothing else."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from typing import Any, ClassVar

from celery import Celery

from shared.jobs import Priority
from shared.settings import Settings

RUN_JOB = "job.run"
DELIVER_WEBHOOK = "webhook.deliver"
JOBS_QUEUE = "jobs"
#: One queue of doorbells for each class of jobs.
JOBS_QUEUES = {Priority.INTERACTIVE: "jobs.interactive", Priority.DEFAULT: JOBS_QUEUE, Priority.BULK: "jobs.bulk"}
WEBHOOKS_QUEUE = "webhooks"
#: A worker that left a queue out looks again after this; the jobs that wait in it for the engine last longer.
LOOK_AGAIN_S = 0.05
CELERY_PREFIX = "sightline:celery:"  #: before every key that kombu makes


def make_celery(settings: Settings) -> Celery:
    """Make the Celery app; gateway and workers use the same.

    No result backend, retries, countdowns or chords: the job's record holds state and delays, and a lost, late or
    doubled message does no harm.
    """
    app = Celery("sightline", broker=settings.redis_url, set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        task_default_queue=JOBS_QUEUE,
        task_routes={DELIVER_WEBHOOK: {"queue": WEBHOOKS_QUEUE}},
        accept_content=["json"],
        task_acks_late=True,  # the loop takes the next doorbell when one is acknowledged; early, it would wait for its tick
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,  # take no more than the pool can run: other workers' batches need them
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # wait for Redis as long as it takes
        broker_transport_options={
            "global_keyprefix": CELERY_PREFIX,
            "visibility_timeout": 24 * 3600,
            "queue_order_strategy": "shared.queue:WeightedCycle",
            "polling_interval": LOOK_AGAIN_S,
            "socket_timeout": 10,
            "socket_keepalive": True,
            "health_check_interval": 5,  # a half-open connection is seen in seconds
        },
    )
    return app


class WeightedCycle:
    """Tells kombu from which queue to take the next doorbell: the most urgent class first, yet none starves.

    Of every eight doorbells taken, one is looked for among the default jobs first and one among the bulk jobs first. Bulk jobs
    are left where they are while this process has as many as it may: the rest of its threads is for those who wait in front of
    a chat. kombu makes the cycle, so what it has to know stands in the class.

    Method names and arguments are those of ``kombu.utils.scheduling.round_robin_cycle``.
    """

    TURNS = 8
    bulk_most: ClassVar[int] = sys.maxsize
    bulk_in_hand: ClassVar[set[str]] = set()  #: ids of the tasks

    def __init__(self) -> None:
        """Begin with the most urgent class."""
        self._urgent: list[str] = []
        self._taken = 0

    def update(self, names: Iterable[str]) -> None:
        """Know the queues that are consumed."""
        order = list(JOBS_QUEUES.values())
        self._urgent = sorted(names, key=lambda name: order.index(name) if name in order else len(order))

    def consume(self, n: int) -> list[str]:
        """Give up to ``n`` queues in the order in which they are looked at."""
        turn, names = self._taken % self.TURNS, self._urgent
        first = {self.TURNS // 2 - 1: 1, self.TURNS - 1: 2}.get(turn, 0)
        order = [*names[first : first + 1], *names[:first], *names[first + 1 :]][:n]
        is_full = len(self.bulk_in_hand) >= self.bulk_most
        return [name for name in order if name != JOBS_QUEUES[Priority.BULK]] if is_full else order

    def rotate(self, last_used: str) -> str:
        """Count a doorbell that was taken."""
        self._taken += 1
        return last_used


class Doorbell:
    """Rings workers. Publishing blocks, so it happens in a thread."""

    def __init__(self, app: Celery) -> None:
        """Ring through this app."""
        self._app = app

    async def ring_job(self, job_id: str, priority: Priority = Priority.DEFAULT) -> None:
        """Tell the engine workers that a job waits."""
        await self._send(RUN_JOB, job_id, queue=JOBS_QUEUES[priority])

    async def ring_webhook(self, event_id: str) -> None:
        """Tell the webhook senders that a delivery is due."""
        await self._send(DELIVER_WEBHOOK, event_id)

    async def _send(self, task: str, ident: str, **where: str) -> None:
        # One try: a lost doorbell is rung again by rescue, and the caller must not hang on a Redis that is away.
        options: dict[str, Any] = {"retry": False, "ignore_result": True, **where}
        await asyncio.to_thread(self._app.send_task, task, args=[ident], **options)
