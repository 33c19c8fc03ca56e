"""The only place that configures Celery. Its messages are doorbells, and empty: there is work for whoever has a free place."""

from __future__ import annotations

import json
import logging
from base64 import b64decode, b64encode
from collections.abc import Iterable
from typing import ClassVar

from celery import Celery
from kombu import Connection

from shared.settings import Settings
from shared.store.address import broker_options, transport_options
from shared.store.key_names import CONTROL, bell_prefix

RING = "jobs.ring"  #: the one task
#: How long one look at the queue waits for a doorbell; it is heard at once all the same.
LISTEN_S = 1.0


def queue_of(model: str) -> str:
    """Name the queue of the doorbells for workers that answer as this model; the store's scripts ring there."""
    return f"jobs.{model}"


def make_celery(settings: Settings) -> Celery:
    """Make the Celery app; all parts use the same.

    No result backend, retries, countdowns or chords: the job's record holds state and delays, and a lost, late or
    doubled message does no harm.
    """
    for noisy in ("celery", "kombu", "amqp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    app = Celery("sightline", set_as_current=False)
    app.conf.update(
        **broker_options(settings),
        control_exchange=CONTROL,
        task_ignore_result=True,
        task_default_queue=queue_of(settings.served_model_name),
        accept_content=["json"],
        worker_prefetch_multiplier=0,  # no limit: what is taken is only a bell
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # wait for Redis as long as it takes
        broker_transport_options={
            "global_keyprefix": bell_prefix(settings.redis_prefix),
            "ack_emulation": False,  # two round trips for each doorbell, to keep what the record has
            "priority_steps": [0],  # else each queue is looked for under four names
            "queue_order_strategy": "shared.doorbells:Listening",
            "polling_interval": LISTEN_S,
            "socket_timeout": 10,
            "socket_keepalive": True,
            "health_check_interval": 5,  # a half-open connection is seen in seconds
            **transport_options(settings),
        },
    )
    return app


class Listening:
    """Tells kombu from which queues to take doorbells: from none while this worker is full, since they are for others.

    kombu makes the object, so what it has to know stands in the class. Method names and arguments are those of
    ``kombu.utils.scheduling.round_robin_cycle``.
    """

    #: True where this worker's last claim came back short. Other processes keep it true, and so read all their queues, such as
    #: the replies to `inspect ping`.
    is_hungry: ClassVar[bool] = True

    def __init__(self) -> None:
        """Know no queue."""
        self._names: list[str] = []

    def update(self, names: Iterable[str]) -> None:
        """Know the queues that are consumed."""
        self._names = list(names)

    def consume(self, n: int) -> list[str]:
        """Give up to ``n`` queues to look at."""
        return self._names[:n] if self.is_hungry else []

    def rotate(self, last_used: str) -> str:
        """Take note that a doorbell was taken."""
        return last_used


def bell_message(settings: Settings) -> str:
    """Write a doorbell as kombu's Redis transport stores it, so that scripts can ring without Celery; all are alike.

    Celery sends one through kombu's transport in memory, whose messages are built by the same code.
    """
    app, queue = make_celery(settings), queue_of(settings.served_model_name)
    with Connection("memory://") as connection, app.amqp.Producer(connection) as producer:
        app.send_task(RING, task_id="doorbell", queue=queue, producer=producer, ignore_result=True)
        message = producer.channel.queues[queue].get_nowait()
    message["body"] = b64encode(b64decode(message["body"])).decode()
    message["properties"]["delivery_tag"] = "doorbell"
    return json.dumps(message)
