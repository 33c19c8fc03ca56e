"""The only place that configures Celery. Its messages are doorbells: a job's id and nothing else."""

from __future__ import annotations

import json
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterable
from typing import ClassVar

from celery import Celery
from kombu import Connection
from redis.asyncio import Redis
from uuid_utils import uuid4

from shared.jobs import Priority
from shared.settings import Settings
from shared.store.address import CELERY_PREFIX, celery_options, transport_options
from shared.store.connection import reply

RUN_JOB = "job.run"
JOBS_QUEUE = "jobs"
#: One queue of doorbells for each class of jobs.
JOBS_QUEUES = {Priority.INTERACTIVE: "jobs.interactive", Priority.DEFAULT: JOBS_QUEUE, Priority.BULK: "jobs.bulk"}
#: From so many jobs on that wait for others' hosts, a worker takes only chats.
MOST_FETCHING = 512
#: A worker that left a queue out looks again after this; the jobs that wait in it for the engine last longer.
LOOK_AGAIN_S = 0.05
#: The lists in which kombu keeps the messages of each class.
DOORBELLS_OF = {priority: CELERY_PREFIX + name for priority, name in JOBS_QUEUES.items()}


def make_celery(settings: Settings) -> Celery:
    """Make the Celery app; gateway and workers use the same.

    No result backend, retries, countdowns or chords: the job's record holds state and delays, and a lost, late or
    doubled message does no harm.
    """
    app = Celery("sightline", set_as_current=False)
    app.conf.update(
        **celery_options(settings),
        task_ignore_result=True,
        task_default_queue=JOBS_QUEUE,
        accept_content=["json"],
        worker_prefetch_multiplier=0,  # no limit: WeightedCycle has it
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # wait for Redis as long as it takes
        broker_transport_options={
            "global_keyprefix": CELERY_PREFIX,
            "ack_emulation": False,  # two round trips for each doorbell, to keep what the record has
            "priority_steps": [0],  # else each queue is looked for under four names
            "queue_order_strategy": "shared.queue:WeightedCycle",
            "polling_interval": LOOK_AGAIN_S,
            "socket_timeout": 10,
            "socket_keepalive": True,
            "health_check_interval": 5,  # a half-open connection is seen in seconds
            **transport_options(settings),
        },
    )
    return app


class WeightedCycle:
    """Tells kombu from which queue to take the next doorbell: the most urgent class first, yet none starves.

    Of every eight doorbells taken, one is looked for among the default jobs first and one among the bulk jobs first. All are
    left where they are while this process answers as many as it may, for other workers; and bulk jobs while it has as many of
    them as it may: the rest is for those who wait in front of a chat. kombu makes the cycle, so what it has to know stands in
    the class.

    Method names and arguments are those of ``kombu.utils.scheduling.round_robin_cycle``.
    """

    TURNS = 8
    most: ClassVar[int] = sys.maxsize
    bulk_most: ClassVar[int] = sys.maxsize
    in_hand: ClassVar[set[str]] = set()  #: delivery tags of the doorbells that are being answered
    bulk_in_hand: ClassVar[set[str]] = set()  #: those of bulk jobs among them
    fetching: ClassVar[int] = 0  #: jobs that wait for others' hosts: they need no slot of the engine meanwhile

    def __init__(self) -> None:
        """Begin with the most urgent class."""
        self._urgent: list[str] = []
        self._taken = 0

    def update(self, names: Iterable[str]) -> None:
        """Know the queues that are consumed."""
        order = list(JOBS_QUEUES.values())
        self._urgent = sorted(names, key=lambda name: order.index(name) if name in order else len(order))

    def consume(self, n: int) -> list[str]:
        """Give up to ``n`` queues in the order in which they are looked at."""
        if len(self.in_hand) - self.fetching >= self.most:
            return []
        turn, names = self._taken % self.TURNS, self._urgent
        first = {self.TURNS // 2 - 1: 1, self.TURNS - 1: 2}.get(turn, 0)
        order = [*names[first : first + 1], *names[:first], *names[first + 1 :]][:n]
        if self.fetching >= MOST_FETCHING:
            return [name for name in order if name == JOBS_QUEUES[Priority.INTERACTIVE]]
        is_full = len(self.bulk_in_hand) >= self.bulk_most
        return [name for name in order if name != JOBS_QUEUES[Priority.BULK]] if is_full else order

    def rotate(self, last_used: str) -> str:
        """Count a doorbell that was taken."""
        self._taken += 1
        return last_used


class Doorbell:
    """Rings workers: puts Celery's messages where their consumers wait, in one round trip and without a thread.

    The messages are kombu's own: one of each kind is made by Celery, and kept as a form in which only the ids are filled in.
    A lost one is rung again by rescue, so nothing here is tried twice.
    """

    def __init__(self, settings: Settings, redis: Redis) -> None:
        """Ring over an open client; its replies must be decoded strings."""
        self._redis = redis
        app = make_celery(settings)
        self._forms = {queue: _Form(app, RUN_JOB, queue) for queue in JOBS_QUEUES.values()}

    def job_message(self, job_id: str, priority: Priority = Priority.DEFAULT) -> str:
        """Write the message that tells the engine workers of a job; :data:`DOORBELLS_OF` says where it goes."""
        return self._forms[JOBS_QUEUES[priority]].fill(job_id)

    async def ring_job(self, job_id: str, priority: Priority = Priority.DEFAULT, *, first: bool = False) -> None:
        """Tell the engine workers that a job waits; ``first``: before all others of its class."""
        await self._ring(JOBS_QUEUES[priority], job_id, first=first)

    async def _ring(self, queue: str, ident: str, *, first: bool = False) -> None:
        push = self._redis.rpush if first else self._redis.lpush  # kombu takes from the right
        await reply(push(CELERY_PREFIX + queue, self._forms[queue].fill(ident)))


class _Form:
    """A message of one task to one queue, as kombu's Redis transport stores it, with blanks for the ids."""

    _IDENT, _TASK_ID = "<the argument>", "<the id of the task>"

    def __init__(self, app: Celery, task: str, queue: str) -> None:
        """Have Celery send one through kombu's transport in memory, whose messages are built by the same code."""
        with Connection("memory://") as connection, app.amqp.Producer(connection) as producer:
            app.send_task(task, [self._IDENT], task_id=self._TASK_ID, queue=queue, producer=producer, ignore_result=True)
            message = producer.channel.queues[queue].get_nowait()
        self._body = b64decode(message.pop("body")).decode()
        message["properties"]["delivery_tag"] = self._TASK_ID
        self._envelope = json.dumps(message)[1:]

    def fill(self, ident: str) -> str:
        """Give the message for one id; its own id is new, since kombu keeps messages by it until they are acknowledged."""
        body = b64encode(self._body.replace(self._IDENT, ident).encode()).decode()
        return f'{{"body": "{body}", {self._envelope.replace(self._IDENT, ident).replace(self._TASK_ID, str(uuid4()))}'
