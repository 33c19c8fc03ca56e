"""Celery's settings, and what a doorbell says."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.doorbells import LISTEN_S, RING, Listening, bell_message, make_celery, queue_of
from shared.settings import Settings
from shared.store.key_names import bell_prefix


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


def test_a_full_worker_leaves_doorbells_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    listening = Listening()
    listening.update(["jobs.a"])

    assert listening.consume(1) == ["jobs.a"]  # what is no worker, such as `celery inspect ping`, reads its answers
    monkeypatch.setattr(Listening, "is_hungry", False)
    assert listening.consume(1) == []


def test_every_broker_option_is_one_that_kombu_knows() -> None:
    app = make_celery(Settings())

    with app.connection_for_write() as connection:
        channel_class = connection.transport.Channel
        known = {*channel_class.from_transport_options, "polling_interval"}  # this one the transport itself reads
        assert known.issuperset(app.conf.broker_transport_options)
        assert connection.transport.brpop_timeout == LISTEN_S


async def test_a_doorbell_is_what_celery_would_send(settings: Settings, redis: Redis) -> None:
    app, queue = make_celery(settings), queue_of(settings.served_model_name)
    await asyncio.to_thread(app.send_task, RING, queue=queue, ignore_result=True)

    celerys = json.loads(await redis.rpop(f"{bell_prefix()}{queue}") or "")  # type: ignore[misc, arg-type]

    ours = json.loads(bell_message(settings))
    for message in (ours, celerys):
        _take_ids(message)
    assert ours == celerys
    app.close()


def _take_ids(message: dict[str, Any]) -> None:
    headers, properties = message["headers"], message["properties"]
    taken = [headers.pop("id"), headers.pop("root_id"), properties.pop("correlation_id"), properties.pop("delivery_tag")]
    assert taken[0] == taken[1] == taken[2]
    del properties["reply_to"]  # names the sender's thread, for results


def test_a_doorbell_is_empty() -> None:
    message = json.loads(bell_message(Settings()))

    args, kwargs, embedded = json.loads(base64.b64decode(message["body"]))
    assert (args, kwargs) == ([], {})
    assert not any(embedded.values())
    assert message["headers"]["eta"] is message["headers"]["expires"] is None
