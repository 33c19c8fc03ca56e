"""A doorbell's way from Celery's consumer to the service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from celery.exceptions import InvalidTaskError
from kombu import Connection, Queue

from shared.jobs import Priority
from shared.queue import JOBS_QUEUES, RUN_JOB, WeightedCycle, make_celery
from shared.settings import Settings
from worker.tasks import Bell

OnEnd = Callable[[asyncio.Task[None]], None]


@dataclass
class Loop:
    """What a bell needs of Celery's consumer."""

    wakes: int = 0

    def call_soon(self, _: Callable[[], None]) -> None:
        self.wakes += 1


@pytest.fixture(autouse=True)
def _empty_hands() -> Iterator[None]:
    yield
    WeightedCycle.in_hand.clear()
    WeightedCycle.bulk_in_hand.clear()


def sent(args: list[str], queue: str) -> Any:
    """Send a message as Celery does, and take it as its consumer does."""
    app = make_celery(Settings())
    with Connection("memory://") as connection, app.amqp.Producer(connection) as producer:
        app.send_task(RUN_JOB, args, queue=queue, producer=producer, ignore_result=True)
        return Queue(queue)(connection.default_channel).get(accept=["json"])


def bell(begin: Callable[[str, OnEnd], None], consumer: Loop) -> Callable[..., None]:
    app = make_celery(Settings())
    task = app.register_task(Bell(RUN_JOB, begin))
    handler: Callable[..., None] = task.start_strategy(app, consumer)
    return handler


@pytest.mark.parametrize("priority", list(Priority))
@pytest.mark.parametrize("fails", [False, True])
async def test_a_doorbell_is_in_hand_until_its_work_ends(priority: Priority, fails: bool) -> None:  # noqa: FBT001
    begun: list[tuple[str, OnEnd]] = []
    consumer = Loop()
    heard = sent(["job_1"], JOBS_QUEUES[priority])

    bell(lambda ident, on_end: begun.append((ident, on_end)), consumer)(heard, None, None, None, None)

    assert [ident for ident, _ in begun] == ["job_1"]
    assert heard.acknowledged
    assert WeightedCycle.in_hand == {heard.delivery_tag}
    assert WeightedCycle.bulk_in_hand == ({heard.delivery_tag} if priority is Priority.BULK else set())
    assert consumer.wakes == 0

    begun[0][1](await _ended(fails=fails))
    assert not WeightedCycle.in_hand
    assert not WeightedCycle.bulk_in_hand
    assert consumer.wakes == 1  # the consumer's loop looks again


async def _ended(*, fails: bool) -> asyncio.Task[None]:
    async def work() -> None:
        if fails:
            raise RuntimeError

    task = asyncio.create_task(work())
    await asyncio.wait({task})
    return task


@pytest.mark.parametrize("args", [[], ["job_1", "job_2"]])
def test_a_doorbell_that_names_nothing_is_refused(args: list[str]) -> None:
    begun: list[str] = []

    with pytest.raises(InvalidTaskError):
        bell(lambda ident, _: begun.append(ident), Loop())(sent(args, JOBS_QUEUES[Priority.DEFAULT]))

    assert not begun
    assert not WeightedCycle.in_hand
