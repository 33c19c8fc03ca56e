"""The first damaged files of the long run: every one ends as it may, none in a 5xx or a hang."""

from __future__ import annotations

from collections import Counter

import httpx

from shared.settings import Settings
from tests.fuzz.doors import fire_all
from tests.fuzz.mutants import mutant
from tests.fuzz.service import send, service
from tests.integration.conftest import Worker, until
from tests.integration.served import served

N_MUTANTS = 150
EVERY = 47  #: of the hostile requests; a prime, so that every kind comes to some route


async def test_damaged_files_end_as_they_may(settings: Settings) -> None:
    outcomes: Counter[str] = Counter()
    bad: list[str] = []
    async with service(settings) as client:
        for seed in range(N_MUTANTS):
            await send(client, seed, outcomes, bad)

    assert bad == []
    assert outcomes["succeeded"] > 10
    assert outcomes["media_unreadable"] > 10


async def test_no_text_nesting_or_header_breaks_a_route(settings: Settings) -> None:
    async with Worker(settings).running(), served(settings) as url, httpx.AsyncClient(base_url=url) as client:
        await until(lambda: _is_ready(client))  # else `/readyz` says 503, as it should
        outcomes, bad = await fire_all(url, every=EVERY)

    assert bad == []
    assert outcomes[400] > 50
    assert outcomes[431] > 3


async def _is_ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/readyz")).is_success


def test_a_seed_names_a_file() -> None:
    assert mutant(604) == mutant(604)
    assert len({mutant(seed)[1] for seed in range(50)}) > 40
