"""Every output tells what the model was shown, and none succeeds that was shown nothing."""

from __future__ import annotations

from typing import Any

import pytest
from openai import AsyncOpenAI
from PIL import Image
from redis.asyncio import Redis

from shared.blobs import Blobs
from shared.jobs import JobRequest
from shared.settings import Settings
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from tests.integration.conftest import Worker, stored_files, until
from tests.integration.test_runtime import Jobs
from tests.media import RED, clip, data_url, picture


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


@pytest.mark.parametrize("count", [1, 3, 8, 80])
async def test_a_video_may_come_as_its_frames(count: int, jobs: Jobs, worker: Worker) -> None:
    names = []
    for n in range(count):
        names.append(f"inline/frames-{n}")
        await jobs.blobs.put_bytes(names[-1], picture((3 * n, 0, 0), (112, 84 + n % 2)))
    part = {"type": "video", "video": [f"blob:{name}" for name in names], "fps": 4, "resized_height": 84, "resized_width": 112}
    request = {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "x"}]}]}
    job_id = new_id("job")
    await jobs.store.submit(JobRequest.model_validate(request), jobs.settings, owner=jobs.owner, job_id=job_id)

    job = await jobs.end_of(job_id)

    assert job.output is not None, job.error
    (medium,) = job.output.media
    shown = min(64, count + count % 2)
    assert (medium.kind, medium.frames, medium.fps, medium.shown_px) == ("video", shown, 4.0, (112, 84))
    assert medium.times_s == [n / 4 for n in range(shown)]
    assert job.output.warnings == (["frames_thinned"] if count > 64 else [])
    colours = job.output.text.split("; ")[0].split()[3:]
    assert int(colours[0][1:3], 16) <= 6
    assert abs(int(colours[-1][1:3], 16) - 3 * (count - 1)) <= 6
    await until(lambda: _none_left(jobs))


async def _none_left(jobs: Jobs) -> bool:
    return not stored_files(jobs.settings)


async def test_a_picture_may_be_asked_for_at_one_size(jobs: Jobs, worker: Worker) -> None:
    name = "inline/one"
    await jobs.blobs.put_bytes(name, picture(RED, (640, 480)))
    part = {"type": "image", "image": f"blob:{name}", "resized_height": 280, "resized_width": 420}
    request = {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "x"}]}]}
    job_id = new_id("job")
    await jobs.store.submit(JobRequest.model_validate(request), jobs.settings, owner=jobs.owner, job_id=job_id)

    job = await jobs.end_of(job_id)

    assert job.output is not None
    assert job.output.media[0].shown_px == (420, 280)


async def test_a_job_whose_picture_the_model_was_not_shown_never_succeeds(jobs: Jobs, worker: Worker) -> None:
    job = await jobs.end_of(await jobs.submit("!blind what is there?"))

    assert job.status == "failed"
    assert job.error is not None
    assert job.error["code"] == "media_unseen"
    assert job.output is None


@pytest.mark.parametrize("door", ["chat", "stream", "response", "response's stream"])
async def test_openais_forms_tell_it_beside_their_own_fields(door: str, client: AsyncOpenAI, worker: Worker) -> None:
    said, url = '{"bbox_2d":[10,5,20,15],"label":"猫"}', data_url(picture(RED, (320, 240)))

    found, without = await _told(door, client, said, url), await _told(door, client, said)

    assert (found["media"][0]["kind"], found["media"][0]["source_px"]) == ("image", [320, 240])
    assert found["media"][0]["vision_tokens"] > 0
    assert [box["label"] for box in found["boxes"]] == ["猫"]
    assert found["warnings"] == []
    assert without is None


async def _told(door: str, client: AsyncOpenAI, text: str, *urls: str) -> Any:
    """Give our own field of an answer, which the openai package keeps."""
    if door.startswith("response"):
        parts: Any = [{"type": "input_image", "image_url": url} for url in urls] + [{"type": "input_text", "text": text}]
        if door == "response":
            answer: Any = await client.responses.create(model="qwen-vl", input=[{"role": "user", "content": parts}])
        else:
            async with client.responses.stream(model="qwen-vl", input=[{"role": "user", "content": parts}]) as stream:
                answer = await stream.get_final_response()
        return getattr(answer, "sightline", None)
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls] + [{"type": "text", "text": text}]
    messages: Any = [{"role": "user", "content": parts}]
    if door == "chat":
        return getattr(await client.chat.completions.create(model="qwen-vl", messages=messages), "sightline", None)
    chunks: Any = await client.chat.completions.create(model="qwen-vl", messages=messages, stream=True)
    told = [chunk.sightline async for chunk in chunks if hasattr(chunk, "sightline")]
    assert len(told) <= 1
    return told[0] if told else None
