"""Files from other people's hosts: through the address guard, as they are, in bounded memory and time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext

import httpx
import ssrfguard

from shared.address_guard import make_client
from shared.errors import MediaTooLarge, MediaUnreachable
from shared.jobs import Priority
from shared.settings import Settings
from worker.admission import Hold, Turns
from worker.job_metrics import FETCHED_BYTES

MAX_REDIRECTS = 10  #: each is checked as the first address was; shops and picture hosts need five and more
#: A host gets so long to come up to the least rate.
GRACE_S = 5.0
#: Files on their way at a time; with the decoders' sockets they stay below the 1,024 descriptors that a process may have.
FETCHES = 384
#: And those of chats, which no other job's slow hosts shall keep waiting.
CHAT_FETCHES = 128
#: After PROMPT_S a slow host is read in chunks, at most GULP_S apart: each read costs the event loop 0.1 ms, even for one byte.
PROMPT_S, GULP_BYTES, GULP_S = 0.5, 16 * 1024, 1.0
#: Hundreds of fetches that begin, or time out, at one moment would hold the loop for half a second: each takes a millisecond.
START_EVERY_S = 0.002
#: Pieces are as small as a host makes them; so many of fewer bytes than this on average only cost our time.
CRUMBS, CRUMB_BYTES = 2000, 64


class Fetcher:
    """Fetches files. A job that waits for a slow host takes no slot and no memory from jobs whose files are here."""

    def __init__(self, settings: Settings) -> None:
        """Open no connection yet."""
        self._settings = settings
        self._client = make_client(settings, timeout_s=5.0, max_redirects=MAX_REDIRECTS)
        self._chats, self._others = Turns(CHAT_FETCHES), Turns(FETCHES)
        self._starting = asyncio.Lock()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def get(self, url: str, most_bytes: int, hold: Hold, *, priority: Priority, rank: int) -> bytearray:
        """Fetch a file.

        Args:
            url: where it is.
            most_bytes: the longest that is taken.
            hold: counts its bytes as they come.
            priority: chats have connections of their own.
            rank: among those that wait for a connection, smaller first.

        Raises:
            MediaUnreachable: the host may not be contacted, does not answer with the file, packs it, or is too slow.
            MediaTooLarge: the file is too long.
        """
        is_chat = priority is Priority.INTERACTIVE
        try:
            async with (
                (self._chats if is_chat else self._others).take(rank),
                nullcontext() if is_chat else self._start(),
                asyncio.timeout(self._settings.fetch_timeout_s) as deadline,
                self._client.stream("GET", url) as answer,
            ):
                return await self._read(answer, most_bytes, hold, deadline)
        except (httpx.HTTPError, httpx.InvalidURL, ssrfguard.SSRFGuardError, OSError, TimeoutError) as error:
            # One message for refused, filtered and blocked, so that nobody can map a network with it.
            raise MediaUnreachable from error

    @asynccontextmanager
    async def _start(self) -> AsyncIterator[None]:
        async with self._starting:
            await asyncio.sleep(START_EVERY_S)
        yield

    async def _read(self, answer: httpx.Response, most_bytes: int, hold: Hold, deadline: asyncio.Timeout) -> bytearray:
        _check_head(answer, most_bytes)
        loop, data, pieces = asyncio.get_running_loop(), bytearray(), 0
        began = loop.time()
        async for piece in answer.aiter_raw():
            check_length(len(data) + len(piece), most_bytes)
            began += await _wait_for_room(hold, len(piece), deadline)
            data += piece
            FETCHED_BYTES.inc(len(piece))
            pieces += 1
            taken_s = loop.time() - began
            if taken_s > GRACE_S and len(data) < taken_s * self._settings.fetch_min_rate:
                msg = f"the host of a picture or video sends fewer than {self._settings.fetch_min_rate} bytes a second"
                raise MediaUnreachable(msg)
            if pieces > CRUMBS and len(data) < pieces * CRUMB_BYTES:
                msg = f"the host of a picture or video sends it in pieces of fewer than {CRUMB_BYTES} bytes"
                raise MediaUnreachable(msg)
            if taken_s > PROMPT_S and len(piece) < GULP_BYTES:
                await asyncio.sleep(min(GULP_S, GULP_BYTES * taken_s / len(data)))
        return data


class WaitingForHosts:
    """Counts the jobs of this process that wait for others' hosts: a worker takes others meanwhile."""

    def __init__(self) -> None:
        """Begin with none."""
        self.n = 0
        self.listeners: set[Callable[[], None]] = set()  #: called when one begins to wait

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count one while a block runs."""
        self.n += 1
        for listener in self.listeners:
            listener()
        try:
            yield
        finally:
            self.n -= 1


waiting_for_hosts = WaitingForHosts()


def _check_head(answer: httpx.Response, most_bytes: int) -> None:
    if answer.status_code != httpx.codes.OK:
        msg = f"the address of a picture or video answered with HTTP {answer.status_code}"
        raise MediaUnreachable(msg)
    encodings = [name.strip().lower() for name in answer.headers.get_list("content-encoding", split_commas=True)]
    if packed := [name for name in encodings if name not in {"", "identity"}]:
        # A kilobyte may unpack to a gigabyte, and nobody knows before.
        shown = re.sub(r"[^\w, -]", "?", ", ".join(packed)[:40])
        msg = (
            f"the host of a picture or video sent it packed, with `content-encoding: {shown}`; it has to send the file as it "
            "is, as `accept-encoding: identity` asks for"
        )
        raise MediaUnreachable(msg)
    said = answer.headers.get("content-length", "")
    check_length(int(said) if said.isdecimal() else 0, most_bytes)


async def _wait_for_room(hold: Hold, n_bytes: int, deadline: asyncio.Timeout) -> float:
    """Wait until there is memory for a piece; gives the seconds that took, which are no fault of the host."""
    loop, until = asyncio.get_running_loop(), deadline.when()
    began = loop.time()
    deadline.reschedule(None)
    await hold.arrive(n_bytes)
    waited_s = loop.time() - began
    deadline.reschedule(None if until is None else until + waited_s)
    return waited_s


def check_length(n_bytes: int, most_bytes: int) -> None:
    """Refuse a file that is too long.

    Raises:
        MediaTooLarge: it is.
    """
    if n_bytes > most_bytes:
        msg = f"a file is longer than the {most_bytes} bytes that this service takes for its kind"
        raise MediaTooLarge(msg)
