"""The first damaged files of the long run: every one ends as it may, none in a 5xx or a hang."""

from __future__ import annotations

from collections import Counter

from shared.settings import Settings
from tests.fuzz.mutants import mutant
from tests.fuzz.service import send, service

N_MUTANTS = 150


async def test_damaged_files_end_as_they_may(settings: Settings) -> None:
    outcomes: Counter[str] = Counter()
    bad: list[str] = []
    async with service(settings) as client:
        for seed in range(N_MUTANTS):
            await send(client, seed, outcomes, bad)

    assert bad == []
    assert outcomes["succeeded"] > 10
    assert outcomes["media_unreadable"] > 10


def test_a_seed_names_a_file() -> None:
    assert mutant(604) == mutant(604)
    assert len({mutant(seed)[1] for seed in range(50)}) > 40
