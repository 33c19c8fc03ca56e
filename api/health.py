"""How the service is: alive, ready, its workers, its queue."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from api.deps import KeyedRoute, PartsDep
from shared.errors import StoreUnavailable

#: What orchestrators ask, without a key.
open_router = APIRouter(tags=["health"])
router = APIRouter(tags=["health"], route_class=KeyedRoute)


class NotReady(StoreUnavailable):
    """No worker is ready yet; jobs are accepted and wait."""

    code = "not_ready"


@open_router.get("/livez")
async def livez() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@open_router.get("/readyz")
async def readyz(parts: PartsDep) -> dict[str, Any]:
    """Say whether a job submitted now would run: Redis answers and a worker is ready."""
    workers = await parts.roster.workers()
    if not any(worker["phase"] == "ready" for worker in workers):
        phases = ", ".join(f"{worker['name']} is {worker['phase']}" for worker in workers) or "no worker is running"
        msg = f"no worker is ready: {phases}"
        raise NotReady(msg, retry_after_s=5)
    return {"status": "ok", "workers": len(workers)}


@router.get("/v1/workers")
async def list_workers(parts: PartsDep) -> dict[str, Any]:
    """List the engine workers: phase, engine, how full it is."""
    return {"object": "list", "data": await parts.roster.workers()}


@router.get("/v1/queue")
async def queue(parts: PartsDep) -> dict[str, Any]:
    """Count the jobs by state; ``load`` is what an autoscaler should look at."""
    counts = await parts.store.counts()
    return counts | {"load": counts["queued"] + counts["running"]}
