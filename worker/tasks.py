"""The Celery tasks: doorbells that name a job or an event. They wait for its end, so that Celery counts what is in flight."""

from __future__ import annotations

from collections.abc import Callable

from celery import Celery

from shared.queue import DELIVER_WEBHOOK, RUN_JOB


def register_tasks(app: Celery, run: Callable[[str], None]) -> None:
    """Give a worker's app its tasks.

    Args:
        app: consumes one of the two queues, so only one of the tasks ever arrives.
        run: hands an id to the service's loop and returns when that is done with it.
    """

    @app.task(name=RUN_JOB)
    def run_job(job_id: str) -> None:
        run(job_id)

    @app.task(name=DELIVER_WEBHOOK)
    def deliver_webhook(event_id: str) -> None:
        run(event_id)
