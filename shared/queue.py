"""The only place that configures Celery. Its messages are doorbells: a job's id and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

from celery import Celery

from shared.settings import Settings

RUN_JOB = "job.run"
DELIVER_WEBHOOK = "webhook.deliver"
JOBS_QUEUE = "jobs"
WEBHOOKS_QUEUE = "webhooks"
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
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,  # take no more than the pool can run: other workers' batches need them
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # wait for Redis as long as it takes
        broker_transport_options={
            "global_keyprefix": CELERY_PREFIX,
            "visibility_timeout": 24 * 3600,
            "socket_timeout": 10,
            "socket_keepalive": True,
            "health_check_interval": 5,  # a half-open connection is seen in seconds
        },
    )
    return app


class Doorbell:
    """Rings workers. Publishing blocks, so it happens in a thread."""

    def __init__(self, app: Celery) -> None:
        """Ring through this app."""
        self._app = app

    async def ring_job(self, job_id: str) -> None:
        """Tell the engine workers that a job waits."""
        await self._send(RUN_JOB, job_id)

    async def ring_webhook(self, event_id: str) -> None:
        """Tell the webhook senders that a delivery is due."""
        await self._send(DELIVER_WEBHOOK, event_id)

    async def _send(self, task: str, ident: str) -> None:
        # One try: a lost doorbell is rung again by rescue, and the caller must not hang on a Redis that is away.
        options: dict[str, Any] = {"retry": False, "ignore_result": True}
        await asyncio.to_thread(self._app.send_task, task, args=[ident], **options)
