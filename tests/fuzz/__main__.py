"""``python -m tests.fuzz``: 10,000 damaged pictures and clips as jobs; ``--api``: hostile requests to every route, and random
ones from the API's description.

A seed names each file, so ``--seed S --n 1`` plays one again. Exits 1 on a 5xx, a hang or a code that is not expected.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import structlog

from shared.store.api_keys import ApiKeys
from shared.store.connection import connect
from tests.fuzz.doors import fire_all
from tests.fuzz.service import a_valkey, gateway_at_a_port, send, service, settings_in
from tests.integration.conftest import Worker

IN_FLIGHT = 8
CONFIG = Path(__file__).with_name("schemathesis.toml")
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


async def fuzz_media(folder: Path, *, seed: int, n: int) -> bool:
    """Send mutants of so many seeds; says whether all ended as they may."""
    outcomes: Counter[str] = Counter()
    bad: list[str] = []
    slots, began = asyncio.Semaphore(IN_FLIGHT), time.monotonic()
    with a_valkey() as valkey:
        async with service(settings_in(folder, valkey, decode_processes=2)) as client:

            async def one(seed: int) -> None:
                async with slots:
                    await send(client, seed, outcomes, bad)
                if sum(outcomes.values()) % 1000 == 0:
                    print(f"{sum(outcomes.values())} sent, {len(bad)} bad", flush=True)

            await asyncio.gather(*(one(seed + k) for k in range(n)))
    print(f"{n} mutants from seed {seed} in {time.monotonic() - began:.0f} s: {dict(outcomes.most_common())}")
    for line in bad:
        print("BAD", line)
    return not bad


async def fuzz_api(folder: Path, *, seed: int, n: int) -> bool:
    """Send every hostile request, then let Schemathesis ask each operation so often; says whether all answers were right."""
    options = ["--checks", CHECKS, "--seed", str(seed), "--max-examples", str(n), "--request-timeout", "90", "--no-color"]

    async def all_right(url: str, *more: str) -> bool:
        program = Path(sys.executable).with_name("schemathesis")
        run = ["--config-file", str(CONFIG), "run", f"{url}/openapi.json", *options, *more]
        asked = await asyncio.create_subprocess_exec(program, *run, cwd=folder)
        return await asked.wait() == 0

    with a_valkey() as valkey:
        settings = settings_in(folder, valkey)
        with gateway_at_a_port(settings) as url:
            async with Worker(settings).running():
                outcomes, bad = await fire_all(url)
                print(f"{outcomes.total()} hostile requests: {dict(sorted(outcomes.items()))}; {len(bad)} bad", flush=True)
                for line in bad:
                    print("BAD", line)
                # Events answer for as long as somebody listens.
                good = await all_right(url, "--exclude-path-regex", "events")
        keyed = settings.model_copy(update={"require_keys": True})
        async with connect(settings) as redis:
            _, secret = await ApiKeys(redis).create("root", admin=True)
        with gateway_at_a_port(keyed) as url:  # whoever administers keys: nobody else gets beyond 403 there
            shown = "--header", f"Authorization: Bearer {secret}"
            return await all_right(url, "--include-path-regex", "^/v1/keys", *shown) and good and not bad


def main() -> int:
    """Run one of the two; gives the exit code."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("--n", type=int, help="mutants (10,000), or requests for each operation (200)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--api", action="store_true")
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory() as folder:
        if given.api:
            return 0 if asyncio.run(fuzz_api(Path(folder), seed=given.seed, n=given.n or 200)) else 1
        return 0 if asyncio.run(fuzz_media(Path(folder), seed=given.seed, n=given.n or 10_000)) else 1


if __name__ == "__main__":
    sys.exit(main())
