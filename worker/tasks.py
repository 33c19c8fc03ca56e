"""The one Celery task: a doorbell. What it asks for runs on the service's loop, without a thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from celery import Celery, Task

from shared.doorbells import RING


class Bell(Task):  # type: ignore[misc]  # Celery has no types
    """A task whose messages go from Celery's consumer to the service at once, past Celery's pool."""

    name = RING

    def __init__(self, ring: Callable[[], None]) -> None:
        """Say what is to be done when a doorbell is heard; it must not wait."""
        self._ring = ring
        self._consumer: Any = None

    def start_strategy(self, app: Celery, consumer: Any, **_: Any) -> Callable[..., None]:  # noqa: ARG002  # Celery's signature
        """Give what Celery's consumer calls with each message."""
        self._consumer = consumer
        return partial(self._hear)

    def listen(self) -> None:
        """Wake Celery's loop from another thread: it looks again whether to take doorbells, and would wait for its tick."""
        if self._consumer:
            self._consumer.call_soon(_look_again)

    def _hear(self, message: Any, *_: Any) -> None:
        message.ack()  # nothing is kept of it: the records are the truth, and a worker with a free place asks each second
        self._ring()


def _look_again() -> None:
    """Do nothing: to be called is enough."""
