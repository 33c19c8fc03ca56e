"""A doorbell's way from Celery's consumer to the service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from kombu import Connection, Queue

from shared.doorbells import RING, make_celery, queue_of
from shared.settings import Settings
from worker.tasks import Bell

QUEUE = queue_of("qwen-vl")


@dataclass
class Loop:
    """What a bell needs of Celery's consumer."""

    wakes: int = 0

    def call_soon(self, _: Callable[[], None]) -> None:
        self.wakes += 1


def sent(*args: str) -> Any:
    """Send a message as Celery does, and take it as its consumer does."""
    app = make_celery(Settings())
    with Connection("memory://") as connection, app.amqp.Producer(connection) as producer:
        app.send_task(RING, args, queue=QUEUE, producer=producer, ignore_result=True)
        return Queue(QUEUE)(connection.default_channel).get(accept=["json"])


@pytest.mark.parametrize("args", [(), ("a job of an older gateway",)])
def test_a_doorbell_is_acknowledged_and_heard(args: tuple[str, ...]) -> None:
    heard, consumer, message = list[str](), Loop(), sent(*args)
    bell = make_celery(Settings()).register_task(Bell(lambda: heard.append("rung")))

    bell.start_strategy(bell.app, consumer)(message, None, None, None, None)

    assert heard == ["rung"]
    assert message.acknowledged


def test_a_consumer_is_woken_when_it_is_to_listen() -> None:
    bell, consumer = Bell(lambda: None), Loop()
    bell.listen()  # there is none yet
    bell.start_strategy(make_celery(Settings()), consumer)

    bell.listen()

    assert consumer.wakes == 1
