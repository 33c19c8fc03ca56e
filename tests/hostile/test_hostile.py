"""Every hostile file ends in a named code or in fresh pixels, in bounded memory, and harms no other."""

from __future__ import annotations

import re
import socket

import pytest

from shared.blobs import Blobs
from shared.settings import Settings
from tests.double import DoubleEngine
from tests.hostile.__main__ import MOST_MB
from tests.hostile.trial import Hostile, judge_beside_good, make, trial
from tests.media import BLUE, clip, picture
from worker.media.loader import MediaLoader

CODES = {"pixels", "media_unreadable", "media_too_large", "unsupported_media"}
#: These may come out as pixels, since what is wrong with them is thrown away or is not wrong enough.
HARMLESS = re.compile(
    r"png (7070|64|1) x |nearly empty|exif that points|behind it|in its comment"
    r"|^jpeg, 95 %|is itself|^jp2 7000 x"
    r"|^(avi|flv|mpegts|mpeg|asf)( with damage|$)|^avi (of|whose)|^flv whose|^mpegts of"
    r"|^gif of 30000|^mkv of (mpeg2video|prores_ks)"
    r"|^mp4 of|^mp4 without|^mp4 whose data|^mkv, |^mkv of 60"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Hostile]:
    target = tmp_path_factory.mktemp("ours") / "secret.mp4"
    target.write_bytes(clip([255] * 10))
    return list(make(target, whole=False))


async def test_every_hostile_file_ends_in_a_code(files: list[Hostile], settings: Settings, blobs: Blobs) -> None:
    async with trial(settings, blobs) as one:
        for hostile in files:
            result = await one.judge(hostile)
            assert result.code in CODES, hostile.name
            assert result.peak_mb <= MOST_MB[hostile.kind], (hostile.name, result.peak_mb)
            assert result.code != "pixels" or HARMLESS.search(hostile.name), hostile.name

    assert len(files) >= 60


async def test_good_pictures_beside_them_are_unharmed(files: list[Hostile], settings: Settings, blobs: Blobs) -> None:
    two = settings.model_copy(update={"decode_processes": 2})
    async with MediaLoader(two, blobs, DoubleEngine(two).limits) as loader:
        sent, failed = await judge_beside_good(loader, files, picture(BLUE), at_a_time=3)

    assert sent > 5
    assert failed == 0


async def test_a_child_opens_nothing(settings: Settings, blobs: Blobs) -> None:
    import av

    async with trial(settings, blobs) as one:
        for steal, given in ((open, ["/etc/hostname"]), (socket.socket, []), (av.open, ["/etc/hostname"])):
            with pytest.raises(OSError, match="Too many open files"):
                await one.loader._in_child(2**28, steal, *given)
