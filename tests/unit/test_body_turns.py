"""Turns of large bodies: one after another, without one client that keeps the others waiting."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from api import body_turns
from api.body_turns import BodyTurns

LARGE = 1_000_000


class Body:
    """A request whose pieces come when the test says so."""

    def __init__(self, turns: BodyTurns, n_bytes: int = LARGE, headers: dict[bytes, bytes] | None = None) -> None:
        self.pieces: asyncio.Queue[dict[str, object]] = asyncio.Queue()
        self.is_asked_for = asyncio.Event()
        headers = {b"content-length": b"%d" % n_bytes} if headers is None else headers
        scope = {"type": "http", "headers": list(headers.items())}
        self.request = asyncio.create_task(turns(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, object]:
        self.is_asked_for.set()
        return await self.pieces.get()

    async def _send(self, message: object) -> None:
        raise AssertionError(message)

    def come(self, *, more: bool = False) -> None:
        self.pieces.put_nowait({"type": "http.request", "body": b"x", "more_body": more})

    async def waits(self) -> bool:
        for _ in range(20):
            await asyncio.sleep(0)
        return not self.is_asked_for.is_set()


async def read_all(scope, receive, send):
    while (await receive()).get("more_body"):
        pass


@pytest.fixture
def turns(monkeypatch):
    monkeypatch.setattr(body_turns, "BYTES_A_S", 1)  # a turn ends with its body, not with its time
    return BodyTurns(read_all)


async def test_one_is_read_after_another_in_the_order_in_which_they_came(turns):
    first, second, third = Body(turns), Body(turns), Body(turns)
    await first.is_asked_for.wait()
    first.come(more=True)
    assert await second.waits()
    first.come()
    await first.request
    await second.is_asked_for.wait()
    assert await third.waits()
    second.come()
    third.come()
    await asyncio.gather(second.request, third.request)


async def test_a_small_body_and_one_of_another_size_wait_for_nobody(turns):
    large = Body(turns)
    others = [Body(turns, 1000), Body(turns, 100_000), Body(turns, 50_000_000), Body(turns, headers={})]
    for body in others:
        await body.is_asked_for.wait()
    unknown = Body(turns, headers={b"transfer-encoding": b"chunked"})
    assert await unknown.waits()  # it may be as long as the longest
    for body in (large, *others, unknown):
        body.come()
        await body.request


async def test_a_slow_client_keeps_others_waiting_for_the_time_of_its_bytes_alone(monkeypatch):
    monkeypatch.setattr(body_turns, "BYTES_A_S", 4 * LARGE)
    turns = BodyTurns(read_all)
    slow, other = Body(turns), Body(turns)
    await slow.is_asked_for.wait()
    assert await other.waits()
    await other.is_asked_for.wait()  # after a quarter of a second, though nothing came of the slow one
    for body in (slow, other):
        body.come()
        await body.request


async def test_who_leaves_or_fails_before_the_end_of_a_body_takes_nobodys_turn(turns):
    gone, waiting, last = Body(turns), Body(turns), Body(turns)
    await gone.is_asked_for.wait()
    waiting.request.cancel()
    gone.request.cancel()
    for body in (gone, waiting):
        with suppress(asyncio.CancelledError):
            await body.request
    await last.is_asked_for.wait()
    last.come()
    await last.request


async def test_what_is_refused_unread_takes_no_turn(turns):
    async def refuse(scope, receive, send):
        pass

    refusing = BodyTurns(refuse)
    await asyncio.gather(*(Body(refusing).request for _ in range(10)))
