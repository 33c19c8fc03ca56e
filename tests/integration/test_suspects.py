"""Jobs in whose company an engine died: tried in groups, with nobody beside them, until the culprit is found."""

from __future__ import annotations

import asyncio
import math
from typing import cast

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from shared.aio import cancel_all
from shared.errors import CancelledByClient, EngineFailed, PoisonInput
from shared.jobs import JobStatus, Stage
from shared.settings import Settings
from shared.store.api_keys import ApiKeys
from shared.store.claims import Asked, Claim
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from tests.claims import end_lease, listed, next_claims
from tests.integration.conftest import until
from tests.integration.test_job_store import OUTPUT, Records
from worker.claiming import Asking, Places
from worker.engines.base import Engine
from worker.running_job import Death, Running

MODEL = "qwen-vl"
LIST, TOTALS, MINDER = (f"sightline:{{sightline}}:{name}" for name in (f"suspects:{MODEL}", "totals", f"minder:{MODEL}"))


@pytest.fixture
def records(store: JobStore, settings: Settings) -> Records:
    return Records(store, settings)


async def die(store: JobStore, claims: list[Claim]) -> None:
    """Let an engine die with these jobs in it."""
    written = await asyncio.gather(*(store.suspect(claim, len(claims)) for claim in claims))
    assert written == [True] * len(claims)


async def killed(records: Records, n: int, *, worker: str = "w1") -> list[str]:
    """Let an engine die with so many new jobs in it; gives their ids, the oldest first."""
    ids = [await records.submit() for _ in range(n)]
    claims = await next_claims(records.store, n, worker=worker)
    assert [claim.job_id for claim in claims] == ids
    await die(records.store, claims)
    return ids


async def group(store: JobStore, *, worker: str = "w2", has_served: bool = True) -> list[Claim]:
    """Ask as a worker does that has nothing in flight."""
    return await next_claims(store, 16, worker=worker, n_suspects=256, has_served=has_served)


async def ask(store: JobStore, worker: str, n: int = 4) -> Asked:
    """Ask as a worker does that has something in flight."""
    return await store.claim(worker, MODEL, n, n_default=n, n_bulk=n, lease_s=60, token=new_id("ask"))


def ids_of(claims: list[Claim]) -> set[str]:
    return {claim.job_id for claim in claims}


async def test_those_who_were_in_an_engine_are_split_in_eighths_the_youngest_first(records: Records) -> None:
    ids = await killed(records, 256)
    groups = [await group(records.store) for _ in range(8)]

    assert [ids_of(claims) for claims in groups] == [set(ids[n - 32 : n]) for n in range(256, 0, -32)]
    assert {claim.engine_deaths for claims in groups for claim in claims} == {1}
    assert {claim.attempt for claims in groups for claim in claims} == {1}
    assert await group(records.store) == []

    await die(records.store, groups[3])
    groups = [await group(records.store) for _ in range(8)]
    assert [len(claims) for claims in groups] == [4] * 8
    await die(records.store, groups[0])
    groups = [await group(records.store) for _ in range(4)]
    assert [len(claims) for claims in groups] == [1] * 4
    assert {claim.engine_deaths for claims in groups for claim in claims} == {1}
    await die(records.store, groups[2])
    assert [claim.engine_deaths for claim in await group(records.store)] == [2]
    assert await group(records.store) == []


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 30])
async def test_few_are_split_until_each_is_alone(records: Records, n: int) -> None:
    await killed(records, n)

    sizes = [len(claims) for claims in [await group(records.store) for _ in range(n)] if claims]

    assert sum(sizes) == n
    assert max(sizes) == math.ceil(n / 8)
    assert len(sizes) <= 8


async def test_a_group_goes_before_all_others_and_nothing_goes_with_it(records: Records) -> None:
    suspects = set(await killed(records, 16))
    others = {await records.submit(), await records.submit()}

    assert ids_of(await group(records.store)) < suspects
    assert {claim.job_id for claim in (await ask(records.store, "w3", 1)).claims} < others  # who is busy goes on
    for _ in range(7):
        assert ids_of(await group(records.store)) < suspects
    assert ids_of(await group(records.store)) < others


async def test_a_group_is_as_large_as_the_places_of_its_worker_and_the_rest_of_it_stays(records: Records) -> None:
    ids = await killed(records, 24)

    few = await next_claims(records.store, 2, n_suspects=2)

    assert len(few) == 2
    assert ids_of(few) | ids_of(await group(records.store)) == set(ids[-3:])


async def test_a_job_that_has_ended_beside_others_is_no_suspect_and_its_attempts_are_its_own(records: Records) -> None:
    await killed(records, 1)
    (claim,) = await group(records.store)
    assert await records.end(claim, OUTPUT)

    assert await group(records.store) == []
    job = await records.store.get(claim.job_id)
    assert (job.status, job.attempt) == ("succeeded", 1)


async def test_a_call_that_is_repeated_changes_nothing(records: Records, redis: Redis) -> None:
    """Its reply was lost; the jobs may be in a group, and a worker that minds them may be on its way."""
    ids = [await records.submit() for _ in range(3)]
    claims = await next_claims(records.store, 3, worker="w1")
    await die(records.store, claims)
    await redis.pexpire(MINDER, 50_000)
    listed_before = await redis.zrange(LIST, 0, -1, withscores=True)

    for n in (3, 1):
        assert await asyncio.gather(*(records.store.suspect(claim, n) for claim in claims)) == [True] * 3

    assert await redis.zrange(LIST, 0, -1, withscores=True) == listed_before
    assert await redis.pttl(MINDER) <= 50_000
    assert (await records.store.counts())["queued"] == 3
    token = new_id("ask")
    first = await next_claims(records.store, 9, n_suspects=9, token=token)
    again = await next_claims(records.store, 9, n_suspects=9, token=token)
    assert [(claim.job_id, claim.fence) for claim in again] == [(claim.job_id, claim.fence) for claim in first]
    assert ids_of(first) == {ids[-1]}


async def test_who_hands_a_suspect_back_puts_it_into_its_group(records: Records, redis: Redis) -> None:
    ids = await killed(records, 48)
    first = await group(records.store)
    leaving, gone, retried, cured, ended, stopped = first
    assert await records.store.release(leaving, "leave")
    await records.stage(retried, Stage.FETCHING)  # it never came to the engine
    await records.stage(cured, Stage.GENERATING)
    assert await records.store.release(retried, "retry", after_s=60)
    assert await records.store.release(cured, "retry")
    assert await records.end(ended, OUTPUT)
    await records.store.cancel(stopped.job_id, CancelledByClient())
    await records.rescue()
    assert ids_of(await group(records.store)) == {leaving.job_id}

    await end_lease(records.store, "w2")  # it holds four of them
    await redis.zadd("sightline:{sightline}:delayed", {retried.job_id: 1}, xx=True)
    await records.rescue()

    assert ids_of(await group(records.store, worker="w3")) == {leaving.job_id, gone.job_id, retried.job_id}
    for _ in range(7):
        assert len(await group(records.store, worker="w3")) == 6
    assert [(claim.job_id, claim.engine_deaths) for claim in await group(records.store)] == [(cured.job_id, 0)]
    assert (await records.store.get(stopped.job_id)).status == "cancelled"
    assert len(ids) == 48


async def test_an_attempt_that_is_one_too_many_ends_a_suspect_as_any_other(records: Records) -> None:
    """A picture that kills the whole worker, and not the engine alone."""
    (job_id,) = await killed(records, 1)
    await group(records.store)
    await end_lease(records.store, "w2")
    await records.rescue(max_attempts=1)

    assert (await records.store.get(job_id)).status == "failed"
    assert await group(records.store) == []


async def test_a_group_whose_jobs_have_ended_holds_nobody_up(records: Records, redis: Redis) -> None:
    ids = await killed(records, 3)
    await records.store.cancel(ids[2], CancelledByClient())
    await redis.delete(f"sightline:{{sightline}}:job:{ids[1]}")
    await records.store.cancel(ids[0], CancelledByClient())
    other = await records.submit()

    assert ids_of((await ask(records.store, "w1")).claims) == {other}
    assert await redis.zcard(LIST) == 0
    assert await redis.hget(TOTALS, f"suspects:{MODEL}") is None  # type: ignore[misc]


async def test_one_that_died_alone_waits_for_an_engine_that_has_answered_something(records: Records) -> None:
    """Else its next death would tell nothing: the engine, or its machine, may have been at fault."""
    (suspect,) = await killed(records, 1)
    other = await records.submit()

    assert ids_of(await group(records.store, has_served=False)) == {other}
    assert ids_of(await group(records.store, has_served=True)) == {suspect}


async def test_one_that_died_alone_is_tried_anyway_where_nothing_else_is_to_be_done(records: Records) -> None:
    (suspect,) = await killed(records, 1)

    assert ids_of(await group(records.store, has_served=False)) == {suspect}


async def test_one_that_died_alone_does_not_hold_up_other_groups(records: Records) -> None:
    (alone,) = await killed(records, 1)
    others = await killed(records, 2, worker="w3")

    groups = [await group(records.store, has_served=False) for _ in range(3)]

    assert [ids_of(claims) for claims in groups] == [{others[1]}, {others[0]}, {alone}]


async def test_where_all_are_busy_one_waits_until_it_has_nothing_in_flight(records: Records, redis: Redis) -> None:
    await killed(records, 1, worker="w1")
    others = [await records.submit() for _ in range(4)]

    assert await ask(records.store, "w1") == Asked([], has_more=False, must_wait=True)  # its engine died last
    assert ids_of((await ask(records.store, "w2", 1)).claims) == {others[0]}

    await redis.delete(MINDER)  # as after a while: w1 is gone, or loads its engine for very long
    assert (await ask(records.store, "w2")).must_wait
    assert (await ask(records.store, "w2")).must_wait  # the reply was lost
    assert ids_of((await ask(records.store, "w3", 1)).claims) == {others[1]}
    assert len(await group(records.store)) == 1
    assert len((await ask(records.store, "w1")).claims) == 2


async def test_a_suspect_runs_though_its_key_be_at_its_limit(records: Records, redis: Redis) -> None:
    await ApiKeys(records.store.redis).limit("me", max_running=1)
    first, second, third = [await records.submit() for _ in range(3)]
    await die(records.store, await next_claims(records.store, 3))
    newer = await next_claims(records.store, 3, worker="w1")
    assert ids_of(newer) == {second}

    suspects = await group(records.store)

    assert ids_of(suspects) == {first}
    facts = await redis.hmget("sightline:{sightline}:owner:me", ["queued", "running"])  # type: ignore[misc]
    assert facts == ["1", "2"]
    assert await next_claims(records.store, 3, worker="w1") == []
    assert await records.end(suspects[0], OUTPUT)
    assert await next_claims(records.store, 3, worker="w1") == []
    assert await records.end(newer[0], OUTPUT)
    assert ids_of(await next_claims(records.store, 3)) == {third}


async def test_suspects_are_listed_as_queued_and_counted(records: Records) -> None:
    ids = await killed(records, 3)

    assert [job.id for job in (await listed(records.store, owner="me", limit=9))[0]] == ids[::-1]
    assert (await records.store.counts())["queued"] == 3
    await group(records.store)
    assert (await records.store.counts())["queued"] == 2


async def test_what_an_earlier_version_handed_back_is_a_group_of_its_own(records: Records, redis: Redis) -> None:
    ids = [await records.submit() for _ in range(3)]
    for job_id in ids[:2]:
        await redis.hset(f"sightline:{{sightline}}:job:{job_id}", "engine_deaths", 1)  # type: ignore[misc]

    assert ids_of((await ask(records.store, "w1")).claims) == {ids[2]}

    assert [ids_of(await group(records.store)) for _ in range(2)] == [{ids[0]}, {ids[1]}]


async def test_suspects_whose_list_is_gone_are_listed_anew(records: Records, redis: Redis) -> None:
    ids = await killed(records, 3)
    await redis.delete(LIST)
    await redis.hdel(TOTALS, f"suspects:{MODEL}")  # type: ignore[misc]
    assert await group(records.store) == []

    await redis.zadd("sightline:{sightline}:delayed", dict.fromkeys(ids, 1), xx=True)
    await records.rescue()

    assert [len(await group(records.store)) for _ in range(4)] == [1, 1, 1, 0]


async def test_a_list_that_is_damaged_hurts_nobody(records: Records, redis: Redis) -> None:
    ids = await killed(records, 2)
    for key in (LIST, MINDER):
        await redis.delete(key)
        await redis.rpush(key, "x")  # type: ignore[misc]
    other = await records.submit()

    with capture_logs() as logs:
        assert ids_of(await group(records.store)) == {other}
    assert [line["record"] for line in logs] == [f"suspects:{MODEL}"]
    await redis.delete(LIST)
    await redis.set(LIST, "x")
    ids += await killed(records, 1, worker="w3")
    await redis.zadd("sightline:{sightline}:delayed", dict.fromkeys(ids, 1), xx=True)
    await records.rescue()

    assert set[str]().union(*[ids_of(await group(records.store)) for _ in range(3)]) == set(ids)


@pytest.mark.parametrize("odd", [{"suspect": "x"}, {"engine_deaths": "x"}, {"owner": None}, {"fence": None}, "gone", "list"])
async def test_a_suspect_whose_record_is_damaged_holds_nobody_up(
    records: Records, redis: Redis, odd: dict[str, str | None] | str
) -> None:
    ids = await killed(records, 16)
    name = f"sightline:{{sightline}}:job:{ids[-1]}"
    if isinstance(odd, str):
        await redis.delete(name)
    if odd == "list":
        await redis.rpush(name, "x")  # type: ignore[misc]
    for field, value in odd.items() if isinstance(odd, dict) else ():
        await (redis.hset(name, field, value) if value else redis.hdel(name, field))  # type: ignore[misc]

    claims = [claim for _ in range(9) for claim in await group(records.store)]

    assert ids_of(claims) - {ids[-1]} == set(ids[:-1])
    for claim in claims:
        assert await records.end(claim, EngineFailed())
    await redis.zadd("sightline:{sightline}:delayed", {ids[-1]: 1}, xx=True)
    await records.rescue()
    assert not await redis.exists(LIST, "sightline:{sightline}:delayed", "sightline:{sightline}:held:w2")


async def test_any_worker_takes_suspects_that_has_been_idle(records: Records, settings: Settings) -> None:
    """Whatever it was told before, though nobody rings, and again and again; what it has in flight goes before."""
    earlier, later, ordinary = [[await records.submit()] for _ in range(3)]
    first, second = await next_claims(records.store, 2, worker="w1")
    taken, in_flight = list[str](), list[Claim]()

    def places() -> Places:
        free = 4 - len(in_flight)
        return Places(free, free, free, 0 if in_flight else free)

    def start(claim: Claim) -> None:
        taken.append(claim.job_id)
        in_flight.append(claim)

    async def has_taken(*ids: str) -> bool:
        return taken == list(ids)

    asking = Asking(settings, records.store, "w2", places=places, start=start, on_hunger=lambda _: None)
    task = asyncio.create_task(asking.run())
    await until(lambda: has_taken(*ordinary), timeout_s=5)
    await die(records.store, [first])
    await asyncio.sleep(1.2)
    assert taken == ordinary
    for death, known in (([], [*ordinary, *earlier]), ([second], [*ordinary, *earlier, *later])):
        assert await records.end(in_flight.pop(), OUTPUT)
        asking.free()
        if death:
            await asyncio.sleep(1.2)  # it has asked in vain, and is idle
            await die(records.store, death)
        await until(lambda known=known: has_taken(*known), timeout_s=5)
    await cancel_all({task})


async def play(store: JobStore, poisons: set[str]) -> tuple[int, int, list[str]]:
    """Be the one worker of the service until all suspects have ended; gives engines that died, runs, and who was blamed."""
    n_deaths, n_runs, has_served, blamed = 0, 0, True, list[str]()
    while claims := await group(store, has_served=has_served):
        n_runs += 1
        killers = [claim for claim in claims if claim.job_id in poisons]
        if not killers:
            written = await asyncio.gather(
                *(store.complete(claim, JobStatus.SUCCEEDED, output=OUTPUT, error=None) for claim in claims)
            )
            assert all(written)
            has_served = True
            continue
        n_deaths += 1
        death = Death(cast("Engine", None), has_served, cast("list[Running]", claims))
        if death.is_proof_against(claims[0]):
            blamed.append(claims[0].job_id)
            assert await store.complete(claims[0], JobStatus.FAILED, output=None, error=PoisonInput())
        else:
            await die(store, claims)
        has_served = False
    return n_deaths, n_runs, blamed


@pytest.mark.parametrize(
    ("places", "most"),
    [*(([n], 5) for n in (0, 3, 100, 128, 255)), *((pair, 9) for pair in ([0, 255], [0, 1], [3, 4], [85, 170], [31, 32]))],
)
async def test_however_the_culprits_lie_few_engines_die_and_nobody_else_is_blamed(
    records: Records, places: list[int], most: int
) -> None:
    ids = await killed(records, 256)
    poisons = {ids[n] for n in places}

    n_deaths, n_runs, blamed = await play(records.store, poisons)

    assert set(blamed) == poisons
    assert len(blamed) == len(poisons)
    assert n_deaths <= most
    assert n_runs <= 21 * len(poisons) + most
    assert (await records.store.counts())["succeeded"] == 256 - len(poisons)
