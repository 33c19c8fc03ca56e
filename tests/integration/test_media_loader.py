"""Media on their way in: fetched through the guard, decoded in a process that may die."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest

from shared.blobs import Blobs
from shared.errors import MediaTooLarge, MediaUnreachable, MediaUnreadable
from shared.jobs import Stage
from shared.messages import ImagePart, Message, Part, TextPart, VideoPart
from shared.settings import Settings
from tests.double import DoubleEngine, mean_colour
from tests.integration.conftest import Reply, Site
from tests.media import BLUE, RED, clip, picture
from worker.engines.base import Conversation
from worker.engines.sizes import vision_tokens
from worker.media.fetch import MAX_REDIRECTS
from worker.media.loader import MediaLoader

SIZES = {size: picture(RED, size, "JPEG") for size in ((60, 80), (400, 300), (2000, 1500))}


def turn(*parts: Part) -> list[Message]:
    return [Message(role="user", content=[*parts, TextPart(type="text", text="x")])]


def image(reference: str, **given: Any) -> ImagePart:
    return ImagePart(type="image", image=reference, **given)


async def load(loader: MediaLoader, *parts: Part) -> Conversation:
    async with loader.load(turn(*parts), on_stage=lambda stage: None, timings_ms={}) as conversation:
        return conversation


@pytest.fixture
async def loader(settings: Settings, blobs: Blobs) -> AsyncIterator[MediaLoader]:
    async with MediaLoader(settings, blobs, DoubleEngine(settings).limits) as loader:
        yield loader


async def test_references_become_pixels_in_their_places(loader: MediaLoader, blobs: Blobs, site: Site) -> None:
    site.replies = [Reply(body=picture(BLUE))]
    await blobs.put_bytes("uploads/file-1", picture(RED, (700, 350)))
    await blobs.put_bytes("inline/job_1-2", clip([0] * 10 + [200] * 10))
    stages: list[Stage] = []
    timings: dict[str, int] = {}
    messages = turn(image(site.url), image("file-1"), VideoPart(type="video", video="blob:inline/job_1-2"))

    async with loader.load(messages, on_stage=stages.append, timings_ms=timings) as conversation:
        (message,) = conversation

    blue, red, film, text = message["content"]
    assert [mean_colour(part["image"]) for part in (blue, red)] == ["#1e3cdc", "#dc1e1e"]
    assert (red["image"].width_px, red["image"].height_px) == (700, 336)
    assert [int(mean_colour(frame)[1:3], 16) for frame in film["video"].frames] == pytest.approx([0, 0, 200, 200], abs=6)
    assert film["video"].sample_fps == pytest.approx(2.0, rel=0.1)
    assert text == {"type": "text", "text": "x"}
    assert stages == [Stage.FETCHING, Stage.DECODING]
    assert set(timings) == {"fetch", "decode"}


@pytest.mark.parametrize(
    ("limits", "low", "high"),
    [
        ({}, 256 * 784, 1024 * 784),  # the settings' own, inside the checkpoint's
        ({"max_pixels": 100 * 784}, 56 * 56, 110 * 784),  # its min_pixels too, so that the grid may take it over
        ({"min_pixels": 600 * 784}, 600 * 784, 1024 * 784),
        ({"min_pixels": 1, "max_pixels": 1}, 56 * 56, 1024 * 784),  # nothing in common with the checkpoint
        ({"max_pixels": 90_000_000}, 256 * 784, 1024 * 784),
    ],
)
async def test_a_picture_stays_inside_everybodys_limits(
    limits: dict[str, int], low: int, high: int, loader: MediaLoader, blobs: Blobs
) -> None:
    for size, data in SIZES.items():
        await blobs.put_bytes("uploads/file-1", data)
        (message,) = await load(loader, image("file-1", **limits))
        pixels = message["content"][0]["image"]
        assert low <= pixels.width_px * pixels.height_px <= high, size


async def test_qwen_vl_utils_would_leave_pictures_as_they_are(loader: MediaLoader, blobs: Blobs) -> None:
    from tests.unit.test_decode import smart_resize

    for size in ((64, 48), (500, 300), (1999, 1001), (300, 3000)):
        await blobs.put_bytes("uploads/file-1", picture(RED, size))
        (message,) = await load(loader, image("file-1"))
        pixels = message["content"][0]["image"]
        assert smart_resize(pixels.height_px, pixels.width_px, 28) == (pixels.height_px, pixels.width_px)


@pytest.mark.parametrize(
    ("replies", "error"),
    [
        ([Reply(404)], MediaUnreachable),
        ([Reply(500)], MediaUnreachable),
        ([Reply(204)], MediaUnreachable),
        ([Reply(302, headers={"location": "/again"})], MediaUnreachable),  # without end
        ([Reply(302, headers={"location": "http://169.254.169.254/latest"})], MediaUnreachable),
        ([Reply(302, headers={"location": "file:///etc/passwd"})], MediaUnreachable),
        ([Reply(302, headers={"location": "http://user:pw@127.0.0.1/"})], MediaUnreachable),
        ([Reply(body=bytes(200_000))], MediaTooLarge),
        ([Reply(body=b"", headers={"content-length": "1000"})], MediaUnreachable),  # hung up
        ([Reply(body=bytes(50), drip_s=0.05)], MediaUnreachable),  # too slow as a whole, though every byte came in time
    ],
    ids=["404", "500", "204", "loop", "to-metadata", "to-file", "to-credentials", "long", "cut", "drip"],
)
async def test_what_cannot_be_fetched_fails_in_one_of_two_ways(
    replies: list[Reply], error: type[Exception], settings: Settings, blobs: Blobs, site: Site
) -> None:
    site.replies = replies
    tight = settings.model_copy(update={"fetch_timeout_s": 1.0, "max_image_bytes": 100_000})
    began = time.monotonic()
    async with MediaLoader(tight, blobs, DoubleEngine(settings).limits) as loader:
        with pytest.raises(error):
            await load(loader, image(site.url))

    assert time.monotonic() - began < 3
    assert len(site.asked) <= 1 + MAX_REDIRECTS


async def test_a_host_that_drips_is_given_up(loader: MediaLoader, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.media.fetch.GRACE_S", 0.2)
    site.replies = [Reply(body=bytes(2000), drip_s=0.02)]

    with pytest.raises(MediaUnreachable, match="bytes a second"):
        await load(loader, image(site.url))


async def test_a_clip_is_made_to_fit_the_context(settings: Settings, blobs: Blobs) -> None:
    await blobs.put_bytes("uploads/file-film", clip([0, 255] * 2, rate=2, size=(448, 448)))
    short = settings.model_copy(update={"max_model_len": 300})
    n_tokens = []
    for given in (settings, short):
        async with MediaLoader(given, blobs, DoubleEngine(settings).limits) as loader:
            conversation = await load(loader, VideoPart(type="video", video="file-film"))
        n_tokens.append(vision_tokens(conversation, DoubleEngine(settings).limits))

    assert n_tokens[0] == 2 * 16 * 16
    assert n_tokens[1] <= 0.9 * 300


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_private_address_is_not_even_asked(host: str, settings: Settings, blobs: Blobs, site: Site) -> None:
    strict = settings.model_copy(update={"allow_networks": ()})
    async with MediaLoader(strict, blobs, DoubleEngine(settings).limits) as loader:
        with pytest.raises(MediaUnreachable) as refused:
            await load(loader, image(site.url.replace("127.0.0.1", host)))
        with pytest.raises(MediaUnreachable) as closed:
            await load(loader, image("http://127.0.0.1:9/"))

    assert refused.value.message == closed.value.message  # nobody can map a network by what is said
    assert site.asked == []


async def test_nothing_of_ours_is_told_to_a_site(loader: MediaLoader, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    site.replies = [Reply(302, headers={"location": "/b", "set-cookie": "a=b"}), Reply(body=picture())]

    await load(loader, image(site.url))

    await load(loader, image(site.url))

    assert len(site.asked) == 3
    assert all({"cookie", "authorization", "referer"}.isdisjoint(asked.headers) for asked in site.asked)


async def test_bombs_end_a_child_at_most(loader: MediaLoader, blobs: Blobs) -> None:
    """Nine copies of a picture that says it is huge, and of one that is, beside a good one."""
    from tests.unit.test_decode import png_header

    await blobs.put_bytes("uploads/file-bomb", png_header(40_000, 40_000))
    await blobs.put_bytes("uploads/file-good", picture(BLUE))

    bombs = [load(loader, image("file-bomb")) for _ in range(9)]
    *ended, good = await asyncio.gather(*bombs, load(loader, image("file-good")), return_exceptions=True)

    assert {type(error) for error in ended} == {MediaTooLarge}
    assert not isinstance(good, BaseException)


async def test_a_child_that_dies_fails_one_job_and_is_replaced(loader: MediaLoader, blobs: Blobs) -> None:
    with pytest.raises(MediaUnreadable):
        await loader._in_child(2**28, os._exit, 9)

    await blobs.put_bytes("uploads/file-good", picture(BLUE))
    assert await load(loader, image("file-good"))


async def test_a_child_that_dies_between_two_files_is_replaced(loader: MediaLoader, blobs: Blobs) -> None:
    await blobs.put_bytes("uploads/file-good", picture(BLUE))
    for _ in range(3):
        os.kill(await loader._in_child(2**28, os.getpid), signal.SIGKILL)

        assert await load(loader, image("file-good"))


async def test_a_child_that_takes_too_long_is_killed(settings: Settings, blobs: Blobs) -> None:
    tight = settings.model_copy(update={"decode_timeout_s": 0.5})
    async with MediaLoader(tight, blobs, DoubleEngine(settings).limits) as loader:
        await loader._in_child(2**28, len, "the first child has to start")
        began = time.monotonic()
        with pytest.raises(MediaTooLarge, match="too long"):
            await loader._in_child(2**28, time.sleep, 30)

        assert time.monotonic() - began < 5


async def test_a_decode_that_is_cancelled_ends_its_child(settings: Settings, blobs: Blobs) -> None:
    async with MediaLoader(settings, blobs, DoubleEngine(settings).limits) as loader:
        child = await loader._in_child(2**28, os.getpid)
        decoding = asyncio.create_task(loader._in_child(2**28, time.sleep, 60))
        await asyncio.sleep(0.5)

        decoding.cancel()

        async with asyncio.timeout(20):
            while psutil.pid_exists(child):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await loader._in_child(2**28, os.getpid) != child


async def test_pictures_have_children_that_no_video_takes(loader: MediaLoader, blobs: Blobs) -> None:
    await blobs.put_bytes("uploads/file-good", picture(BLUE))
    films = [asyncio.create_task(loader._in_child(2**28, time.sleep, 110, kind="video")) for _ in range(5)]
    await asyncio.sleep(0.5)

    async with asyncio.timeout(60):
        await load(loader, image("file-good"))

    assert await loader._in_child(2**28, os.nice, 0) == os.nice(0)
    assert not any(film.done() for film in films)
    for film in films:
        film.cancel()
    await asyncio.gather(*films, return_exceptions=True)
    assert await loader._in_child(2**28, os.nice, 0, kind="video") > os.nice(0)  # they stand back, too


async def test_a_child_cannot_take_all_memory(loader: MediaLoader) -> None:
    with pytest.raises((MemoryError, MediaUnreadable)):
        await loader._in_child(2**28, bytes, 2**29)
