"""Requests that stay open, streams and those that wait, and what ends them early."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from redis.exceptions import RedisError
from starlette.types import Receive

from shared.errors import HungUp, KeyInvalid, SightlineError
from shared.store.api_keys import ApiKeys
from shared.store.trouble_log import log_trouble

T = TypeVar("T")

KEYS_EVERY_S = 5.0  #: a revoked key's requests end within so long; each key is looked at once, however many it has open


class OpenRequests:
    """Ends the open requests of a key that is revoked, and all of them when the gateway leaves.

    Whoever has one open only registers; nothing is awaited when it ends, which a cancellation could cut off.
    """

    def __init__(self, keys: ApiKeys) -> None:
        """Look at these keys; :meth:`watch_keys` must run where keys are required."""
        self._keys = keys
        self._open: defaultdict[str, set[asyncio.Future[SightlineError]]] = defaultdict(set)
        self._closed: SightlineError | None = None

    def __len__(self) -> int:
        """How many are open."""
        return sum(map(len, self._open.values()))

    @contextmanager
    def opened(self, owner: str) -> Iterator[asyncio.Future[SightlineError]]:
        """Have a request open while the block runs. The future is done when it has to end, and says why."""
        early_end = asyncio.get_running_loop().create_future()
        self._open[owner].add(early_end)
        if self._closed:
            early_end.set_result(self._closed)
        try:
            yield early_end
        finally:
            self._open[owner].discard(early_end)
            if not self._open[owner]:
                del self._open[owner]

    async def wait(self, answer: Coroutine[Any, Any, T], receive: Receive, owner: str) -> T:
        """Wait for an answer on behalf of a client, who may hang up.

        Raises:
            HungUp: it did; nobody reads this.
            KeyInvalid: its key was revoked.
            Restarting: the gateway leaves.
        """
        waiting, leaving = asyncio.ensure_future(answer), asyncio.ensure_future(hung_up(receive))
        try:
            with self.opened(owner) as early_end:
                ends: set[asyncio.Future[Any]] = {waiting, leaving, early_end}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
            raise early_end.result() if early_end.done() else HungUp
        finally:
            waiting.cancel()
            leaving.cancel()

    def close(self, error: SightlineError) -> None:
        """End all that are open, and whatever comes after them."""
        self._closed = error
        for owner in list(self._open):
            self._end(owner, error)

    async def watch_keys(self) -> None:
        """End the requests of revoked keys, until cancelled."""
        while True:
            await asyncio.sleep(KEYS_EVERY_S)
            try:
                revoked = await self._keys.revoked_of(list(self._open))
            except RedisError as error:
                log_trouble(error, chore="watch_keys")
                continue
            for owner in revoked:
                self._end(owner, KeyInvalid("this API key was revoked"))

    def _end(self, owner: str, error: SightlineError) -> None:
        for early_end in self._open.get(owner, ()):
            if not early_end.done():
                early_end.set_result(error)


async def hung_up(receive: Receive) -> None:
    """Wait until the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
