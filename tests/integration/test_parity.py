"""Bad requests get the status that vLLM's own server gives them; ``python -m tests.openai parity`` asks that server itself."""

from __future__ import annotations

import json

import pytest

from shared.settings import Settings
from tests.integration.conftest import Worker, gateway_for
from tests.openai.parity import BAD, CHAT, LIMIT_IMAGES

#: Only the real engine knows; tests/acceptance/test_openai.py asks it.
OF_THE_ENGINE = {"prompt beyond the context", "no JSON schema", "a token to stop at that there is none of"}


@pytest.mark.parametrize("name", sorted(BAD.keys() - OF_THE_ENGINE))
async def test_a_bad_request_gets_the_status_that_vllm_gives_it(settings: Settings, worker: Worker, name: str) -> None:
    body = BAD[name]
    content = body if isinstance(body, bytes) else json.dumps(body)
    async with gateway_for(settings.model_copy(update={"limit_images": LIMIT_IMAGES})) as gateway:
        answer = await gateway.post(CHAT, content=content, headers={"content-type": "application/json"})

    assert answer.status_code == (404 if name == "unknown model" else 400)
    assert answer.json()["error"]["type"] == "invalid_request_error"
