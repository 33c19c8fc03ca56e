"""The Celery tasks: doorbells that name a job or an event. They wait for its end, so that Celery counts what is in flight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery

from shared.jobs import Priority
from shared.queue import DELIVER_WEBHOOK, JOBS_QUEUES, RUN_JOB, WeightedCycle


def register_tasks(app: Celery, run: Callable[[str], None]) -> None:
    """Give a worker's app its tasks.

    Args:
        app: consumes one of the two queues, so only one of the tasks ever arrives.
        run: hands an id to the service's loop and returns when that is done with it.
    """

    @app.task(name=RUN_JOB, bind=True)
    def run_job(task: Any, job_id: str) -> None:
        if task.request.delivery_info["routing_key"] == JOBS_QUEUES[Priority.BULK]:
            WeightedCycle.bulk_in_hand.add(task.request.id)
        try:
            run(job_id)
        finally:
            WeightedCycle.bulk_in_hand.discard(task.request.id)

    @app.task(name=DELIVER_WEBHOOK)
    def deliver_webhook(event_id: str) -> None:
        run(event_id)
