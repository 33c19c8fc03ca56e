"""Every route that takes a body takes no media, or takes them through the gate: a new one has to be added here to pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from api.error_responses import OPENAI_CODES, OPENAI_PATHS
from api.main import create_app
from shared.settings import Settings
from tests.conftest import make_settings
from tests.integration.conftest import gateway_for
from tests.media import data_url, picture

Request = dict[str, Any]

GOOD = data_url(picture())
#: A reference, a text, and the code that both together end in.
HOSTILE = [
    ("file:///etc/passwd", "What?", "bad_media_reference"),
    ("/etc/passwd", "What?", "bad_media_reference"),
    ("blob:inline/job_1-0", "What?", "bad_media_reference"),
    ("data:image/png;base64,@@@@", "What?", "bad_media_reference"),
    ("http://169.254.169.254/latest", "What?", "address_refused"),
    ("http://10.0.0.1/a.png", "What?", "address_refused"),
    ("http://2130706433/a.png", "What?", "address_refused"),
    (data_url(b"<svg/>"), "What?", "unsupported_media"),
    ("file-0198c0de", "What?", "upload_unknown"),
    (GOOD, "What? <|image_pad|>", "reserved_token"),
    (GOOD, "What? <|im_end|>", "reserved_token"),
]


def as_job(reference: str, text: str) -> Request:
    return {"json": {"prompt": text, "images": [reference]}}


def as_chat(reference: str, text: str) -> Request:
    parts = [{"type": "image_url", "image_url": {"url": reference}}, {"type": "text", "text": text}]
    return {"json": {"model": "qwen-vl", "messages": [{"role": "user", "content": parts}]}}


def as_response(reference: str, text: str) -> Request:
    parts = [{"type": "input_image", "image_url": reference}, {"type": "input_text", "text": text}]
    return {"json": {"model": "qwen-vl", "input": [{"role": "user", "content": parts}], "background": True}}


#: How media are sent to a route by reference.
BY_REFERENCE: dict[str, Callable[[str, str], Request]] = {
    "/v1/jobs": as_job,
    "/v1/chat/completions": as_chat,
    "/v1/responses": as_response,
}
#: Routes that take a file itself.
BY_FILE = {"/v1/files"}
#: Routes whose bodies hold neither media nor texts for the model. Batches name an upload, whose lines go the way of a job.
_ENDPOINT = "/v1/webhook_endpoints/{endpoint_id}"
NO_MEDIA = {
    *("/v1/jobs/cancel", "/v1/jobs/retry", "/v1/groups/{group}"),
    "/v1/batches",
    *("/v1/keys", "/v1/keys/{key_id}"),
    "/v1/webhook_endpoints",
    _ENDPOINT,
    *(f"{_ENDPOINT}/{action}" for action in ("test", "recover", "rotate_secret")),
}


def takers() -> list[str]:
    """Give the paths that take a body, by the service's own description and by the routes themselves."""
    app = create_app(make_settings())
    described = app.openapi()["paths"]
    hidden = [route.path for route in app.routes if {"POST", "PUT", "PATCH"} & set(getattr(route, "methods", None) or ())]
    with_body = [path for path, methods in described.items() if any("requestBody" in method for method in methods.values())]
    return sorted({*with_body, *(path for path in hidden if path not in described)})


def test_every_route_that_takes_a_body_is_known() -> None:
    paths = set(takers())
    assert paths - set(BY_REFERENCE) - BY_FILE - NO_MEDIA == set()
    assert set(BY_REFERENCE) | BY_FILE <= paths


@pytest.mark.parametrize("path", BY_REFERENCE)
async def test_references_and_texts_pass_the_gate(path: str, settings: Settings) -> None:
    async with gateway_for(settings.model_copy(update={"allow_networks": ()})) as gateway:
        for reference, text, code in HOSTILE:
            answer = await gateway.post(path, **BY_REFERENCE[path](reference, text))
            told = OPENAI_CODES.get(code, code) if path.startswith(OPENAI_PATHS) else code
            assert (answer.status_code // 100, answer.json()["error"]["code"]) == (4, told), (reference, text)


@pytest.mark.parametrize("path", sorted(BY_FILE))
async def test_files_pass_the_gate(path: str, gateway: httpx.AsyncClient) -> None:
    for data in (b"<svg/>", b"%PDF-1.7", b"ffconcat version 1.0\nfile /etc/passwd", b"II*\x00" + bytes(60), b""):
        answer = await gateway.post(path, files={"file": ("a.png", data, "image/png")})
        assert answer.json()["error"]["code"] == "unsupported_media", data
