"""Bare Celery: threads, late acknowledgement, no prefetch."""

from __future__ import annotations

from celery import Celery

from bench.queues.slots import JOBS, REDIS_URL, occupy

app = Celery("bench", broker=REDIS_URL)
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, worker_prefetch_multiplier=1, task_ignore_result=True)


@app.task
def describe(job_id: str) -> None:
    """Stand for a job."""
    del job_id
    occupy()


if __name__ == "__main__":
    for n in range(JOBS):
        app.send_task("bench.queues.celery_app.describe", [f"job_{n}"])
