"""Redis wrote a job and died before it could say so: the client's repetition finds the job, with its picture."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from shared.settings import Settings
from tests.integration.conftest import Worker, app_of, gateway_for
from tests.media import data_url, picture


async def test_a_submit_whose_reply_was_lost_is_repeated_with_its_key(
    settings: Settings, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"prompt": "hello", "images": [data_url(picture())]}
    headers = {"idempotency-key": "k"}
    async with gateway_for(settings) as client:
        store = app_of(client).state.services.store
        run = store._run

        async def lose_the_reply(name: str, *args: Any) -> Any:
            answer = await run(name, *args)
            if name == "submit":
                monkeypatch.setattr(store, "_run", run)
                raise RedisConnectionError
            return answer

        monkeypatch.setattr(store, "_run", lose_the_reply)
        first = await client.post("/v1/jobs", json=body, headers=headers)
        again = await client.post("/v1/jobs", json=body, headers=headers)

        assert (first.status_code, first.json()["error"]["code"]) == (503, "store_unavailable")
        assert (again.status_code, again.headers["idempotency-replayed"]) == (202, "true")
        job = (await client.get(f"/v1/jobs/{again.json()['id']}?wait=20")).json()
        assert job["status"] == "succeeded"
