"""The requests of docs/recipes.md, in both languages, as the programs send them."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
import yaml

from shared.settings import ROOT, Settings
from tests.integration.conftest import Site, Worker, gateway_for, until
from tests.integration.test_sender import sending
from tests.media import data_url, picture

PICTURE = data_url(picture())


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / "docs" / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def filled(block: str, **given: str) -> dict[str, Any]:
    """Put what a program would into a block's gaps."""
    for gap, value in {"data:image/png;base64,…": PICTURE, "{{ $json.image_url }}": PICTURE, **given}.items():
        block = block.replace(gap, value)
    body: dict[str, Any] = json.loads(block)
    return body


@pytest.mark.parametrize("document", ["recipes.md", "recipes.zh-CN.md"])
async def test_each_request_gets_its_answer(document: str, settings: Settings, site: Site) -> None:
    comfy, webui, n8n = blocks(document, "json")
    async with gateway_for(settings) as gateway, Worker(settings).running(), sending(settings):
        said = (await gateway.post("/v1/chat/completions", json=filled(comfy))).json()
        assert "1 x 532x392" in said["choices"][0]["message"]["content"]

        assert [model["id"] for model in (await gateway.get("/v1/models")).json()["data"]] == [filled(webui)["model"]]
        answer = await gateway.post("/v1/chat/completions", json=filled(webui))
        pieces = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        assert "1 x 532x392" in "".join(c["delta"].get("content") or "" for p in pieces for c in p["choices"])
        assert pieces[-1]["usage"]["prompt_tokens"] > 0
        assert await _title(gateway)

        resumed = filled(n8n, **{"{{ $execution.resumeUrl }}": f"{site.url}/webhook-waiting/231"})
        assert (await gateway.post("/v1/jobs", json=resumed)).status_code == 202
        await until(lambda: _asked(site))
    (told,) = site.asked
    assert (told.method, told.path) == ("POST", "/webhook-waiting/231")
    assert "1 x 532x392" in json.loads(told.body)["data"]["output"]["text"]


async def _asked(site: Site) -> bool:
    return bool(site.asked)


async def _title(gateway: httpx.AsyncClient) -> str:
    """Ask as Open WebUI does for the title of a chat, beside the chat itself."""
    words = "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history."
    body = {
        "model": "qwen-vl",
        "messages": [{"role": "user", "content": words}],
        "stream": False,
        "max_completion_tokens": 1000,
        "metadata": {"task": "title_generation"},
    }
    title: str = (await gateway.post("/v1/chat/completions", json=body)).json()["choices"][0]["message"]["content"]
    return title


@pytest.mark.parametrize("document", ["recipes.md", "recipes.zh-CN.md"])
def test_litellm_is_led_to_the_openai_surface(document: str) -> None:
    (block,) = blocks(document, "yaml")
    (model,) = yaml.safe_load(block)["model_list"]
    assert model["litellm_params"]["model"] == f"openai/{Settings().served_model_name}"
    assert httpx.URL(model["litellm_params"]["api_base"]).path == "/v1"
