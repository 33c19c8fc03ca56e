"""dramatiq: threads, its Redis broker."""

from __future__ import annotations

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from bench.queues.slots import JOBS, REDIS_URL, occupy

dramatiq.set_broker(RedisBroker(url=REDIS_URL))


@dramatiq.actor(actor_name="describe")
def describe(job_id: str) -> None:
    """Stand for a job."""
    del job_id
    occupy()


if __name__ == "__main__":
    for n in range(JOBS):
        describe.send(f"job_{n}")
