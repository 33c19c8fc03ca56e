"""The client of Redis: commands that share round trips, and its end."""

from __future__ import annotations

import asyncio

from redis.exceptions import DataError

from shared.settings import Settings
from shared.store.connection import connect
from tests.integration.conftest import until


async def test_a_client_that_closes_leaves_no_connection_of_a_command_under_way(settings: Settings) -> None:
    """A command whose caller has left goes on; it used to connect anew after the end, and that connection was never closed."""
    async with connect(settings) as looking:

        async def is_alone() -> bool:
            return len(await looking.client_list()) == 1

        for _ in range(20):
            client = connect(settings)
            calling = asyncio.create_task(client.ask("PING"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            calling.cancel()
            await client.aclose()
        await until(is_alone)


async def test_a_command_that_fails_does_not_stop_those_beside_it(settings: Settings) -> None:
    async with connect(settings) as client:
        answers = await asyncio.gather(
            client.ask("PING"), client.ask("NONSENSE"), client.ask("ECHO", "好"), return_exceptions=True
        )

    assert [answers[0], answers[2]] == [True, "好"]
    assert "unknown command" in str(answers[1])


async def test_a_command_that_cannot_be_written_does_not_stop_those_beside_it(settings: Settings) -> None:
    """Half a surrogate pair in ten batches ended the runner of all: its lease was in the same round trip."""
    async with connect(settings) as client:
        answers = await asyncio.gather(
            client.ask("PING"),
            client.ask("ECHO", "\ud800"),
            client.ask("ECHO", "好"),
            client.ask("ECHO", None),  # type: ignore[arg-type]
            client.ask("INCR", "n"),
            return_exceptions=True,
        )

    assert [answers[0], answers[2], answers[4]] == [True, "好", 1]
    assert isinstance(answers[1], UnicodeEncodeError)
    assert isinstance(answers[3], DataError)


async def test_a_record_that_is_no_text_does_not_stop_those_beside_it(settings: Settings) -> None:
    async with connect(settings) as client:
        await client.hset("damaged", mapping={"a": b"\xff\xfe"})  # type: ignore[misc]

        answers = await asyncio.gather(client.ask("PING"), client.ask("HGETALL", "damaged"), client.ask("ECHO", "好"))

    assert answers == [True, {"a": "\ufffd\ufffd"}, "好"]
