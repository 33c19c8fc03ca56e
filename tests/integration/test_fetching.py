"""Files from hosts that mean ill, or are slow: refused or waited for, and in nobody's way."""

from __future__ import annotations

import asyncio
import gzip
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import nullcontext

import pytest

from shared.blobs import Blobs
from shared.errors import MediaTooLarge, MediaUnreachable, MediaUnreadable
from shared.messages import ImagePart, Message, Part, TextPart
from shared.settings import Settings
from tests.conftest import make_settings
from tests.double import DoubleEngine
from tests.integration.conftest import Reply, Site
from tests.media import BLUE, picture
from worker.media.fetch import waiting_for_hosts
from worker.media.loader import MediaLoader

MIB = 2**20


@pytest.fixture
async def loader(settings: Settings, blobs: Blobs) -> AsyncIterator[MediaLoader]:
    async with MediaLoader(settings, blobs, DoubleEngine(settings).limits) as loader:
        yield loader


async def load(loader: MediaLoader, *references: str) -> int:
    """Load pictures; gives the bytes that are held for them."""
    parts: list[Part] = [ImagePart(type="image", image=reference) for reference in references]
    turn = Message(role="user", content=[*parts, TextPart(type="text", text="x")])
    async with loader.load([turn], on_stage=lambda _: None, timings_ms={}):
        return loader.memory.used


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """Make a gigabyte out of some kilobytes."""
    return gzip.compress(gzip.compress(bytes(256 * MIB)))


@pytest.mark.parametrize(
    "encoding",
    [
        *("gzip", "gzip, gzip", "GZip", "x-gzip", "deflate", "br", "zstd", "identity, gzip", "gzip,identity", "x\x7f", "*"),
        "identity\r\ncontent-encoding: gzip",
        "\r\nContent-Encoding: gzip",
    ],
)
async def test_a_file_that_comes_packed_is_refused(encoding: str, loader: MediaLoader, site: Site, bomb: bytes) -> None:
    site.replies = [Reply(body=bomb, headers={"content-encoding": encoding})]
    tracemalloc.start()
    try:
        with pytest.raises(MediaUnreachable, match=r"packed.*has to send the file as it is"):
            await load(loader, site.url)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 8 * MIB


@pytest.mark.parametrize("encoding", ["identity", "Identity", "", " , identity"])
async def test_a_file_that_only_says_it_is_as_it_is_is_taken(encoding: str, loader: MediaLoader, site: Site) -> None:
    site.replies = [Reply(body=picture(BLUE), headers={"content-encoding": encoding})]

    assert await load(loader, site.url)


async def test_what_stands_behind_a_redirect_is_not_even_read(loader: MediaLoader, site: Site, bomb: bytes) -> None:
    packed = {"location": "/there", "content-encoding": "gzip, gzip"}
    endless = {"location": "/there", "content-length": str(10**12)}
    site.replies = [Reply(302, bomb, packed), Reply(302, b"", endless), Reply(body=picture(BLUE))]
    began = time.monotonic()

    assert await load(loader, site.url)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(("hops", "arrives"), [(10, True), (11, False)])
async def test_ten_redirects_are_followed(hops: int, arrives: bool, loader: MediaLoader, site: Site) -> None:  # noqa: FBT001
    site.replies = [*(Reply(302, headers={"location": f"/{n}"}) for n in range(hops)), Reply(body=picture(BLUE))]

    with nullcontext() if arrives else pytest.raises(MediaUnreachable):
        assert await load(loader, site.url)

    assert len(site.asked) == 11


@pytest.mark.parametrize(
    "transfer", ["gzip", "gzip, chunked", "chunked, chunked", "identity", "chunked\r\ntransfer-encoding: x"]
)
async def test_odd_ways_of_transfer_are_refused(transfer: str, loader: MediaLoader, site: Site) -> None:
    site.replies = [Reply(body=picture(BLUE), headers={"transfer-encoding": transfer})]

    with pytest.raises(MediaUnreachable):
        await load(loader, site.url)


async def test_a_file_in_crumbs_is_refused(loader: MediaLoader, site: Site) -> None:
    """Each piece takes the worker as long, however few bytes are in it."""
    body = b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n"
    site.replies = [Reply(body=body, headers={"transfer-encoding": "chunked", "content-length": "1"})]

    with pytest.raises(MediaUnreachable, match="pieces of fewer than"):
        await load(loader, site.url)


async def test_a_file_that_says_it_is_too_long_is_not_read(settings: Settings, blobs: Blobs, site: Site) -> None:
    site.replies = [Reply(body=b"x", headers={"content-length": str(10**9)})]
    async with MediaLoader(settings, blobs, DoubleEngine(settings).limits) as loader:
        with pytest.raises(MediaTooLarge):
            await load(loader, site.url)


async def test_when_one_file_fails_the_others_fetches_end(loader: MediaLoader, site: Site) -> None:
    site.replies = [*[Reply(body=bytes(500), drip_s=0.01)] * 3, Reply(404)]
    began = time.monotonic()

    with pytest.raises(MediaUnreachable, match="404"):
        await load(loader, site.url, site.url, site.url, site.url)

    assert time.monotonic() - began < 3
    assert loader.memory.used == waiting_for_hosts.n == 0
    assert len(asyncio.all_tasks()) == 1  # this one


async def test_when_one_file_fails_the_others_decodes_end(settings: Settings, blobs: Blobs) -> None:
    await blobs.put_bytes("uploads/file-bad", picture()[:60])
    await blobs.put_bytes("uploads/file-large", picture(BLUE, (7000, 7000)))
    two = settings.model_copy(update={"decode_processes": 2})
    async with MediaLoader(two, blobs, DoubleEngine(settings).limits) as loader:
        with pytest.raises(MediaUnreadable):
            await load(loader, "file-large", "file-bad", "file-large")
        async with asyncio.timeout(1):
            await loader._in_child(2**28, len, "")


async def test_files_on_their_way_stay_within_the_budget(blobs: Blobs, site: Site) -> None:
    """40 jobs whose hosts send 1 MiB each at once: a worker that may hold 16 MiB holds no more of them."""
    settings = make_settings(blobs_url="/nowhere", media_budget_bytes=16 * MIB, min_pixels=56 * 56, max_pixels=56 * 56)
    site.replies = [Reply(body=picture(BLUE, (16, 16)) + bytes(MIB), delay_s=0.05)]
    peak = 0
    async with MediaLoader(settings, blobs, DoubleEngine(settings).limits) as loader:

        async def watch() -> None:
            nonlocal peak
            while True:
                peak = max(peak, loader.memory.used)
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        async with asyncio.timeout(30):
            await asyncio.gather(*(load(loader, site.url) for _ in range(40)))
        watching.cancel()

        assert 2 * MIB < peak <= 8 * MIB + MIB  # pictures have half of it, and one job may go beyond
        assert loader.memory.used == 0


async def test_a_host_is_not_blamed_for_the_time_that_the_worker_was_full(settings: Settings, blobs: Blobs, site: Site) -> None:
    tight = settings.model_copy(update={"fetch_timeout_s": 0.5, "media_budget_bytes": MIB})
    site.replies = [Reply(body=picture(BLUE))]
    async with MediaLoader(tight, blobs, DoubleEngine(settings).limits) as loader:
        arrivals, _ = loader.memory._pictures
        await arrivals.more("another", MIB)
        loading = asyncio.create_task(load(loader, site.url))
        await asyncio.sleep(0.8)
        assert not loading.done()
        arrivals.leave("another")

        assert await loading
