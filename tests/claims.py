"""Claims of one certain job, for tests that are about what comes after."""

from __future__ import annotations

from shared.jobs import Job
from shared.settings import DEFAULT_MODEL
from shared.store.claims import Claim
from shared.store.ids import new_id
from shared.store.jobs import JobStore
from shared.store.key_names import PREFIX
from shared.store.selection import Filter, Selection


async def next_claims(
    store: JobStore,
    n: int = 1,
    *,
    worker: str = "w",
    lease_s: float = 60,
    model: str = DEFAULT_MODEL,
    n_default: int | None = None,
    n_bulk: int | None = None,
    token: str | None = None,
    n_suspects: int = 0,
    has_served: bool = False,
) -> list[Claim]:
    """Ask for the next jobs, as a worker does."""
    places = {"n_default": n if n_default is None else n_default, "n_bulk": n if n_bulk is None else n_bulk}
    suspects = {"n_suspects": n_suspects, "has_served": has_served}
    asked = await store.claim(worker, model, n, **places, lease_s=lease_s, token=token or new_id("ask"), **suspects)
    return asked.claims


async def claim_job(
    store: JobStore,
    job_id: str,
    *,
    worker: str = "w",
    lease_s: float = 60,
    model: str = DEFAULT_MODEL,
    token: str | None = None,
) -> Claim | None:
    """Claim a queued job before all others of its model; None where it cannot be claimed."""
    facts = await store.redis.hmget(f"{PREFIX}job:{job_id}", ["owner", "class", "model"])  # type: ignore[misc]
    owner, priority = facts[0], facts[1] or "default"
    lane = f"{priority}:{facts[2]}"
    if not await store.redis.zadd(f"{PREFIX}q:{lane}:{owner}", {job_id: 0}, xx=True, ch=True):
        return None
    await store.redis.zadd(f"{PREFIX}ready:{lane}", {owner: -1}, xx=True)
    await store.redis.hset(f"{PREFIX}totals", f"turn:{model}", {"default": 3, "bulk": 7}.get(priority, 0))  # type: ignore[misc]
    claims = await next_claims(store, worker=worker, lease_s=lease_s, model=model, token=token)
    assert all(claim.job_id == job_id for claim in claims)
    return claims[0] if claims else None


async def listed(store: JobStore, *, owner: str, limit: int, after: str | None = None) -> tuple[list[Job], bool]:
    """List an owner's jobs, newest first, and say whether there are more."""
    page = await Selection(store.redis).page(owner, Filter(), limit=limit, after=after)
    return [await store.get(job_id) for job_id in page.ids], page.more


async def end_lease(store: JobStore, worker: str) -> None:
    """Let a worker's lease be over."""
    assert await store.redis.zadd(f"{PREFIX}workers", {worker: 1}, xx=True, ch=True) == 1
