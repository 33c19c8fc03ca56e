"""An error that a worker meets keeps its own code on every surface: what is the client's mistake is never told as ours."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError

from shared.settings import Settings
from tests.integration.conftest import Reply, Site, Worker, until
from tests.integration.test_batches import ended, lines_of, start
from tests.media import picture

#: What an address may answer with, the code that says so in OpenAI's words, and a word of the message.
ANSWERS = {
    "page": (b"<!doctype html><html>Please sign in</html>", "unsupported_image_media_type", "web page"),
    "json": (b'{"error": "expired"}', "unsupported_image_media_type", "JSON"),
    "film": (b"\x1aE\xdf\xa3 a matroska file", "unsupported_image_media_type", "used as a picture"),
    "damaged": (picture()[:60], "image_parse_error", "damaged"),
}


def chat(url: str, **given: Any) -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "x"}]
    return {"model": "qwen-vl", "messages": [{"role": "user", "content": content}]} | given


@pytest.fixture(params=ANSWERS)
def bad(request: pytest.FixtureRequest, site: Site) -> tuple[str, str, str]:
    """Give an address that answers with no picture, the code for that, and a word of the message."""
    body, code, word = ANSWERS[request.param]
    site.replies = [Reply(body=body)]
    return f"{site.url}/{request.param}.png", code, word


async def test_a_chat_and_its_stream(client: AsyncOpenAI, worker: Worker, bad: tuple[str, str, str]) -> None:
    address, code, word = bad

    with pytest.raises(BadRequestError, match=word) as caught:
        await client.chat.completions.create(**chat(address))
    assert caught.value.code == code
    assert caught.value.type == "invalid_request_error"

    with pytest.raises(Exception, match=word) as broken:
        async for _ in await client.chat.completions.create(**chat(address, stream=True)):
            pass
    assert getattr(broken.value, "code", None) == code


async def test_a_response_at_once_and_in_the_background(client: AsyncOpenAI, worker: Worker, bad: tuple[str, str, str]) -> None:
    address, code, word = bad
    content = [{"type": "input_image", "image_url": address}, {"type": "input_text", "text": "x"}]
    asked: dict[str, Any] = {"model": "qwen-vl", "input": [{"role": "user", "content": content}]}

    with pytest.raises(BadRequestError, match=word) as caught:
        await client.responses.create(**asked)
    assert caught.value.code == code

    response = await client.responses.create(**asked, background=True)

    async def failed() -> Any:
        seen = await client.responses.retrieve(response.id)
        return seen if seen.status == "failed" else None

    assert (await until(failed)).error.code == code


async def test_a_line_of_a_batch(client: AsyncOpenAI, worker: Worker, bad: tuple[str, str, str]) -> None:
    address, code, _ = bad
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": chat(address)}

    batch = await start(client, [json.dumps(line)])
    batch = await until(lambda: ended(client, batch.id))

    (row,) = await lines_of(client, batch.error_file_id)
    assert row["response"]["status_code"] == 400
    assert row["response"]["body"]["error"]["code"] == code


async def test_a_job(url: str, worker: Worker, settings: Settings, bad: tuple[str, str, str]) -> None:
    address, _, word = bad
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        answer = await http.post("/v1/jobs", json={"prompt": "x", "images": [address]}, headers={"prefer": "wait=20"})

    error = answer.json()["error"]
    assert error["code"] in {"unsupported_media", "media_unreadable"}
    assert word in error["message"]
