"""Every output tells what the model was shown, and none succeeds that was shown nothing."""

from __future__ import annotations

import pytest
from PIL import Image
from redis.asyncio import Redis

from shared.blobs import Blobs
from shared.settings import Settings
from shared.store.jobs import JobStore
from tests.integration.conftest import Worker
from tests.integration.test_runtime import Jobs
from tests.media import RED, clip, picture


@pytest.fixture
def jobs(store: JobStore, blobs: Blobs, settings: Settings, redis: Redis) -> Jobs:
    return Jobs(store, blobs, settings, redis)


async def test_an_output_tells_what_was_shown(jobs: Jobs, worker: Worker) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = picture(RED, (1200, 800), "JPEG", exif=exif)

    job = await jobs.end_of(await jobs.submit("x", turned, clip([0] * 40, rate=1)))

    assert job.output is not None
    image, video = job.output.media
    assert (image.kind, image.source_px, image.turned_deg, image.shown_px) == ("image", (1200, 800), 90, (728, 1092))
    assert (video.kind, video.source_px, video.frames, len(video.times_s or [])) == ("video", (64, 48), 40, 40)
    assert video.fps == pytest.approx(1.0)
    assert image.vision_tokens + video.vision_tokens == job.output.usage.vision_tokens
    assert job.output.warnings == []


async def test_a_long_video_is_said_to_be_thinned(jobs: Jobs, worker: Worker) -> None:
    job = await jobs.end_of(await jobs.submit("x", clip([0] * 160, rate=4)))

    assert job.output is not None
    assert job.output.media[0].frames == 64
    assert job.output.warnings == ["frames_thinned"]


async def test_a_box_is_in_the_pixels_of_the_file(jobs: Jobs, worker: Worker) -> None:
    said = '{"bbox_2d":[100,50,200,150],"label":"猫"}'  # what the double says after it

    job = await jobs.end_of(await jobs.submit(said, picture(RED, (1600, 1200))))

    assert job.output is not None
    shown = job.output.media[0].shown_px
    (box,) = job.output.boxes
    assert box.label == "猫"
    assert box.box is not None
    assert box.box == tuple(round(n * [1600 / shown[0], 1200 / shown[1]][i % 2]) for i, n in enumerate((100, 50, 200, 150)))


async def test_a_job_whose_picture_the_model_was_not_shown_never_succeeds(jobs: Jobs, worker: Worker) -> None:
    job = await jobs.end_of(await jobs.submit("!blind what is there?"))

    assert job.status == "failed"
    assert job.error is not None
    assert job.error["code"] == "media_unseen"
    assert job.output is None
