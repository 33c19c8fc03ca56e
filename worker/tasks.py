"""The Celery tasks: doorbells that name a job. What they ask for runs on the service's loop, without a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from celery import Celery, Task
from celery.exceptions import InvalidTaskError

from shared.jobs import Priority
from shared.queue import JOBS_QUEUES, WeightedCycle

log = structlog.get_logger()


class Bell(Task):  # type: ignore[misc]  # Celery has no types
    """A task whose messages go from Celery's consumer to the service at once, past Celery's pool.

    A thread that waits for each job's end, and what Celery keeps of each call, took a sixth of the worker's time.
    """

    def __init__(self, name: str, begin: Callable[[str, Callable[[asyncio.Task[None]], None]], None]) -> None:
        """Name the task.

        Args:
            name: as the messages have it.
            begin: begins the work for an id, and hands its task over when it is done.
        """
        self.name, self._begin = name, begin

    def start_strategy(self, app: Celery, consumer: Any, **_: Any) -> Callable[..., None]:  # noqa: ARG002  # Celery's signature
        """Give what Celery's consumer calls with each message."""
        return partial(self._hear, consumer)

    def _hear(self, consumer: Any, message: Any, *_: Any) -> None:
        try:
            (ident,), *_ = message.decode()
        except (TypeError, ValueError) as error:
            msg = "a doorbell has one argument"
            raise InvalidTaskError(msg) from error
        tag = message.delivery_tag
        WeightedCycle.in_hand.add(tag)
        if message.delivery_info["routing_key"] == JOBS_QUEUES[Priority.BULK]:
            WeightedCycle.bulk_in_hand.add(tag)
        message.ack()  # nothing is kept of it: the record is the truth, and rescue rings again

        def end(done: asyncio.Task[None]) -> None:
            WeightedCycle.in_hand.discard(tag)
            WeightedCycle.bulk_in_hand.discard(tag)
            consumer.call_soon(_look_again)
            if not done.cancelled() and (error := done.exception()):
                log.error("doorbell.failed", task=self.name, exc_info=error)

        self._begin(ident, end)


def _look_again() -> None:
    """Wake Celery's loop, which then takes the next doorbell; else it would wait for its tick."""
