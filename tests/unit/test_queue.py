"""Celery's settings, and what a doorbell says."""

from __future__ import annotations

import base64
import json

import pytest
from redis.asyncio import Redis

from shared.queue import DELIVER_WEBHOOK, JOBS_QUEUE, LOOK_AGAIN_S, RUN_JOB, WEBHOOKS_QUEUE, Doorbell, make_celery
from shared.settings import Settings


def test_the_job_records_are_the_only_authority() -> None:
    conf = make_celery(Settings()).conf

    assert conf.task_ignore_result is True
    assert conf.result_backend is None
    assert conf.accept_content == ["json"]


def test_a_worker_takes_no_more_than_it_can_run_and_waits_for_redis() -> None:
    conf = make_celery(Settings()).conf

    assert conf.worker_prefetch_multiplier == 1
    assert conf.worker_disable_prefetch is True
    assert conf.broker_connection_retry_on_startup is True
    assert conf.broker_connection_max_retries is None
    assert conf.worker_cancel_long_running_tasks_on_connection_loss is False


def test_every_broker_option_is_one_that_kombu_knows() -> None:
    app = make_celery(Settings())

    with app.connection_for_write() as connection:
        channel_class = connection.transport.Channel
        known = {*channel_class.from_transport_options, "polling_interval"}  # this one the transport itself reads
        assert known.issuperset(app.conf.broker_transport_options)
        assert connection.transport.brpop_timeout == LOOK_AGAIN_S


@pytest.mark.parametrize(
    ("ring", "queue", "task"), [("ring_job", JOBS_QUEUE, RUN_JOB), ("ring_webhook", WEBHOOKS_QUEUE, DELIVER_WEBHOOK)]
)
async def test_a_doorbell_holds_the_id_and_nothing_else(
    ring: str, queue: str, task: str, settings: Settings, redis: Redis
) -> None:
    app = make_celery(settings)

    await getattr(Doorbell(app), ring)("job_123")

    (raw,) = await redis.lrange(f"sightline:celery:{queue}", 0, -1)
    message = json.loads(raw)
    args, kwargs, embedded = json.loads(base64.b64decode(message["body"]))
    assert (args, kwargs) == (["job_123"], {})
    assert not any(embedded.values())
    assert message["headers"]["task"] == task
    assert message["content-type"] == "application/json"
    assert message["headers"]["eta"] is message["headers"]["expires"] is None
    app.close()
