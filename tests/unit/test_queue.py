"""Celery's settings, and what a doorbell says."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.jobs import Priority
from shared.queue import (
    JOBS_QUEUE,
    JOBS_QUEUES,
    LOOK_AGAIN_S,
    MOST_FETCHING,
    RUN_JOB,
    Doorbell,
    WeightedCycle,
    make_celery,
)
from shared.settings import Settings


def test_the_job_records_are_the_only_authority() -> None:
    conf = make_celery(Settings()).conf

    assert conf.task_ignore_result is True
    assert conf.result_backend is None
    assert conf.accept_content == ["json"]


def test_a_worker_waits_for_redis_as_long_as_it_takes() -> None:
    conf = make_celery(Settings()).conf

    assert conf.broker_connection_retry_on_startup is True
    assert conf.broker_connection_max_retries is None
    assert conf.worker_cancel_long_running_tasks_on_connection_loss is False


def test_a_worker_takes_no_more_than_it_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cycle, queues = WeightedCycle(), list(JOBS_QUEUES.values())
    cycle.update(queues)
    monkeypatch.setattr(WeightedCycle, "most", 2)
    monkeypatch.setattr(WeightedCycle, "in_hand", {"one"})

    assert cycle.consume(3) == queues
    cycle.in_hand.add("two")
    assert cycle.consume(3) == []


def test_jobs_that_wait_for_hosts_keep_no_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    cycle, queues = WeightedCycle(), list(JOBS_QUEUES.values())
    cycle.update(queues)
    monkeypatch.setattr(WeightedCycle, "most", 2)
    monkeypatch.setattr(WeightedCycle, "in_hand", {"one", "two"})
    monkeypatch.setattr(WeightedCycle, "fetching", 1)
    assert cycle.consume(3) == queues

    monkeypatch.setattr(WeightedCycle, "in_hand", {str(n) for n in range(MOST_FETCHING)})
    monkeypatch.setattr(WeightedCycle, "fetching", MOST_FETCHING)
    assert cycle.consume(3) == [JOBS_QUEUES[Priority.INTERACTIVE]]  # chats, whatever others' hosts do


def test_every_broker_option_is_one_that_kombu_knows() -> None:
    app = make_celery(Settings())

    with app.connection_for_write() as connection:
        channel_class = connection.transport.Channel
        known = {*channel_class.from_transport_options, "polling_interval"}  # this one the transport itself reads
        assert known.issuperset(app.conf.broker_transport_options)
        assert connection.transport.brpop_timeout == LOOK_AGAIN_S


async def test_a_doorbell_is_what_celery_would_send(settings: Settings, redis: Redis) -> None:
    app = make_celery(settings)
    await asyncio.to_thread(app.send_task, RUN_JOB, ["job_123"], queue=JOBS_QUEUE, ignore_result=True)

    await Doorbell(settings, redis).ring_job("job_123")

    ours, celerys = [json.loads(raw) for raw in await redis.lrange(f"{{sightline}}:celery:{JOBS_QUEUE}", 0, -1)]
    ids = [_take_ids(message) for message in (ours, celerys)]
    assert ours == celerys
    assert [[len(ident) for ident in own] for own in ids] == [[36] * 4] * 2
    assert not set(ids[0]) & set(ids[1])
    app.close()


def _take_ids(message: dict[str, Any]) -> list[str]:
    headers, properties = message["headers"], message["properties"]
    taken = [headers.pop("id"), headers.pop("root_id"), properties.pop("correlation_id"), properties.pop("delivery_tag")]
    assert taken[0] == taken[1] == taken[2]
    del properties["reply_to"]  # names the sender's thread, for results
    return taken


async def test_a_doorbell_holds_the_id_and_nothing_else(settings: Settings, redis: Redis) -> None:
    message = json.loads(Doorbell(settings, redis).job_message("job_123"))

    args, kwargs, embedded = json.loads(base64.b64decode(message["body"]))
    assert (args, kwargs) == (["job_123"], {})
    assert not any(embedded.values())
    assert message["headers"]["eta"] is message["headers"]["expires"] is None


async def test_no_two_doorbells_are_mistaken_for_each_other(settings: Settings, redis: Redis) -> None:
    bell = Doorbell(settings, redis)

    first, second = (json.loads(bell.job_message("job_123")) for _ in range(2))

    assert first["properties"]["delivery_tag"] != second["properties"]["delivery_tag"]
