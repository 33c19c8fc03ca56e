"""Lists go on where the page before ended, whatever has gone since; a record that cannot be read is left out."""

from __future__ import annotations

import httpx
import pytest
from redis.asyncio import Redis

from shared.errors import InvalidRequest
from shared.store.ids import made_ms, new_id
from shared.store.records import Records

JOB = {"prompt": "what is it?", "images": ["https://example.com/cat.png"]}
NOBODYS = ["job_nobody", "job_" + "0" * 32, "job_" + "f" * 12 + "7fff8" + "f" * 15, "好", " "]


class Things(Records):
    """Records of some kind, in an index whose scores stand for seconds."""

    async def add(self, ident: str, *, unit_ms: int) -> None:
        await self.redis.hset(self._key(f"thing:{ident}"), mapping={"id": ident})  # type: ignore[misc]
        await self.redis.zadd(self._key("things"), {ident: (made_ms(ident) or 0) // unit_ms})

    async def page(self, after: str | None, *, newest_first: bool, unit_ms: int) -> tuple[list[str], bool]:
        async def read(ident: str) -> str | None:
            return await self._record(f"thing:{ident}", lambda record: record["id"])

        return await self._list("things", read, limit=3, after=after, newest_first=newest_first, unit_ms=unit_ms)


@pytest.mark.parametrize("unit_ms", [1, 1000])
@pytest.mark.parametrize("order", ["newest", "oldest"])
async def test_pages_go_on_after_one_that_is_gone(redis: Redis, order: str, unit_ms: int) -> None:
    """All ten are of one second, and some of one millisecond: where scores are the same, the ids' order counts."""
    things, ids = Things(redis), sorted(new_id("thing") for _ in range(10))
    for ident in ids:
        await things.add(ident, unit_ms=unit_ms)
    newest_first = order == "newest"
    seen: list[str] = []
    more, after = True, None

    while more:
        page, more = await things.page(after, newest_first=newest_first, unit_ms=unit_ms)
        seen, after = [*seen, *page], page[-1]
        await redis.zrem("sightline:{sightline}:things", after)
        await redis.delete(f"sightline:{{sightline}}:thing:{after}")

    assert seen == (ids[::-1] if newest_first else ids)


async def test_what_cannot_be_read_is_left_out_of_a_full_page(redis: Redis) -> None:
    things, ids = Things(redis), sorted(new_id("thing") for _ in range(10))
    for ident in ids:
        await things.add(ident, unit_ms=1)
    for ident in ids[2:6]:
        await redis.delete(f"sightline:{{sightline}}:thing:{ident}")
    await redis.set(f"sightline:{{sightline}}:thing:{ids[2]}", "no hash")
    await redis.hset(f"sightline:{{sightline}}:thing:{ids[3]}", "of", "a later version")  # type: ignore[misc]

    page, more = await things.page(None, newest_first=False, unit_ms=1)

    assert (page, more) == ([ids[0], ids[1], ids[6]], True)


async def test_a_list_does_not_start_over_after_what_never_was_in_it(redis: Redis) -> None:
    things = Things(redis)
    await things.add(new_id("thing"), unit_ms=1)

    for after in NOBODYS:
        with pytest.raises(InvalidRequest):
            await things.page(after, newest_first=True, unit_ms=1)


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/webhook_endpoints"])
async def test_a_cursor_that_tells_no_place_is_400(gateway: httpx.AsyncClient, path: str) -> None:
    for after in NOBODYS:
        answer = await gateway.get(path, params={"after": after})

        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "after")


async def test_jobs_are_listed_on_after_a_purged_one(gateway: httpx.AsyncClient, redis: Redis) -> None:
    ids = [(await gateway.post("/v1/jobs", json=JOB)).json()["id"] for _ in range(6)][::-1]
    await redis.zrem("sightline:{sightline}:q:default:qwen-vl:local", ids[2])
    await redis.delete(f"sightline:{{sightline}}:job:{ids[2]}")

    after = (await gateway.get("/v1/jobs", params={"limit": 3, "after": ids[2]})).json()

    assert [job["id"] for job in after["data"]] == ids[3:]
    assert after["has_more"] is False


async def test_endpoints_are_listed_on_after_a_deleted_one(gateway: httpx.AsyncClient) -> None:
    body = {"url": "http://127.0.0.1/hook", "event_types": ["job.succeeded"]}
    ids = [(await gateway.post("/v1/webhook_endpoints", json=body)).json()["id"] for _ in range(4)]
    await gateway.delete(f"/v1/webhook_endpoints/{ids[1]}")

    after = (await gateway.get("/v1/webhook_endpoints", params={"after": ids[1]})).json()

    assert [endpoint["id"] for endpoint in after["data"]] == ids[2:]
