"""Someone with a picture gets its description through the whole real system."""

from __future__ import annotations

import base64
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from demo.scenes import clip, scene
from sightline.client import Client
from sightline.receiver import Receiver
from sightline.stack import Stack, free_port
from tests.sse import tell, text_of

pytestmark = pytest.mark.timeout(600)

ENGLISH, CHINESE = "Describe this image.", "请用中文描述一下这张图片"
SEED = 777_000


def data_url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def describe(client: Client, body: dict[str, Any]) -> dict[str, Any]:
    return client.wait(client.submit(body)["id"], timeout_s=120)


@pytest.mark.parametrize(("prompt", "language"), [(ENGLISH, "en"), (CHINESE, "zh")])
def test_an_uploaded_picture_is_described_in_the_language_of_the_prompt(client, tmp_path, prompt, language):
    drawn = scene(SEED)
    path = tmp_path / "a.png"
    path.write_bytes(drawn.png())
    job = describe(client, {"prompt": prompt, "images": [client.upload(path)["id"]]})
    assert job["output"]["text"] == drawn.caption(language)
    assert job["output"]["finish_reason"] == "stop"


async def test_the_streamed_text_is_the_output_in_both_languages(stack, client):
    async with httpx.AsyncClient(base_url=stack.url) as streams:
        for n, prompt in enumerate((ENGLISH, CHINESE)):
            job = client.submit({"prompt": prompt, "images": [data_url(scene(SEED + 30 + n).png())]})
            events = [event async for event in tell(streams, f"/v1/jobs/{job['id']}/events")]
            assert events[-1].type == "job.succeeded"
            assert text_of(events) == events[-1].data["output"]["text"] != ""


def test_an_output_says_what_made_it_and_what_it_cost(client):
    output = describe(client, {"prompt": ENGLISH, "images": [data_url(scene(SEED + 1).png())]})["output"]
    assert output["engine"]["name"] == "vllm"
    assert output["engine"]["version"].startswith("0.")
    assert output["engine"]["model"] == "qwen-vl"
    usage = output["usage"]
    assert 24 <= usage["vision_tokens"] <= 50
    assert usage["prompt_tokens"] > usage["vision_tokens"]
    assert usage["output_tokens"] > 5
    assert {"queue", "fetch", "decode", "render", "generate", "total"} <= set(output["timings_ms"])


def test_messages_in_the_form_of_qwen_work_with_a_system_turn_and_pixel_limits(client):
    drawn = scene(SEED + 2)
    image = {"type": "image", "image": data_url(drawn.jpeg()), "min_pixels": 256 * 28 * 28, "max_pixels": 1280 * 28 * 28}
    user = {"role": "user", "content": [image, {"type": "text", "text": CHINESE}]}
    job = describe(client, {"messages": [{"role": "system", "content": "You are a helpful assistant."}, user]})
    assert job["output"]["text"] == drawn.caption("zh")


def test_a_picture_is_fetched_from_an_address(client, web_folder):
    folder, url = web_folder
    drawn = scene(SEED + 3)
    (folder / "s.png").write_bytes(drawn.png())
    assert describe(client, {"prompt": ENGLISH, "images": [f"{url}/s.png"]})["output"]["text"] == drawn.caption("en")


def test_a_clip_is_described(client, tmp_path):
    moving = clip(SEED + 4)
    path = tmp_path / "a.mp4"
    path.write_bytes(moving.mp4())
    job = describe(client, {"prompt": "Describe this video.", "video": client.upload(path)["id"]})
    assert job["output"]["text"] == moving.caption("en")


def test_five_pictures_fit_into_one_job(client):
    images = [data_url(scene(SEED + n).png()) for n in range(5)]
    job = describe(client, {"prompt": ENGLISH, "images": images})
    assert job["status"] == "succeeded"
    assert job["output"]["usage"]["vision_tokens"] > 5 * 24


def test_the_end_of_a_job_is_told_by_a_signed_webhook(client, receiver: Receiver):
    picture = data_url(scene(SEED + 5).png())
    body = {"prompt": ENGLISH, "images": [picture], "webhook": {"url": receiver.url}, "metadata": {"n": 1}}
    job = describe(client, body)
    assert receiver.wait_for({job["id"]}, timeout_s=20)
    delivery = receiver.received[0]
    assert delivery.type == "job.succeeded"
    assert delivery.job["output"]["text"] == job["output"]["text"]
    assert delivery.job["metadata"] == {"n": 1}


def test_prefer_wait_answers_with_the_output(client, stack):
    body = {"prompt": ENGLISH, "images": [data_url(scene(SEED + 6).png())]}
    job = client.request("POST", "/v1/jobs", json=body, headers={"prefer": "wait=50"})
    assert job["status"] == "succeeded"
    assert client.request("GET", "/v1/jobs", params={"limit": 1})["data"][0]["id"] == job["id"]


def test_a_damaged_file_fails_its_own_job_and_no_other(client):
    good, whole = scene(SEED + 7), scene(SEED + 8).png()
    broken = whole[: len(whole) // 2]
    bodies = [{"prompt": ENGLISH, "images": [data_url(data)]} for data in (good.png(), broken, good.png())]
    first, second, third = [client.wait(client.submit(body)["id"], timeout_s=60) for body in bodies]
    assert (second["status"], second["error"]["code"]) == ("failed", "media_unreadable")
    assert first["output"]["text"] == third["output"]["text"] == good.caption("en")


def test_an_address_that_does_not_answer_fails_with_a_code_after_retries(client):
    job = describe(client, {"prompt": ENGLISH, "images": [f"http://127.0.0.1:{free_port()}/x.png"]})
    assert (job["status"], job["error"]["code"], job["attempt"]) == ("failed", "media_unreachable", 3)


def test_64_jobs_at_once_share_the_engines_batch(client):
    """How much sooner they end is measured by bench/batch.py."""

    def submit(n: int) -> str:
        return client.submit({"prompt": ENGLISH, "images": [data_url(scene(SEED + 100 + n).png())]})["id"]

    with ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(submit, range(64)))
        jobs = list(pool.map(lambda job_id: client.wait(job_id, timeout_s=120), ids))
    assert [job["output"]["text"] for job in jobs] == [scene(SEED + 100 + n).caption("en") for n in range(64)]
    until = time.monotonic() + 30
    while (peak := client.request("GET", "/v1/workers")["data"][0]["engine_running_peak"]) < 16:  # told once a second
        assert time.monotonic() < until, peak
        time.sleep(0.2)


def test_the_gateway_is_light_and_knows_no_model(stack: Stack):
    process = psutil.Process(stack.processes["gateway"].pid)
    libraries = {Path(mapped.path).name for mapped in process.memory_maps()}
    assert not [name for name in libraries if re.search(r"torch|vllm|cuda", name)]
    assert process.memory_info().rss < 150 * 2**20


def test_the_worker_is_still_the_first_one(stack: Stack):
    """Runs last: nothing above may have ended a process."""
    stack.check()
