"""The workers: how each is, and how one is told to leave."""

from __future__ import annotations

from typing import Any

import structlog
from fastapi import APIRouter

from api import answers
from api.authentication import AdminRoute, KeyedRoute, OwnerDep
from api.metrics import worker_id
from api.services import ServicesDep
from shared.errors import NotFound

log = structlog.get_logger()
router = APIRouter(tags=["health"], route_class=KeyedRoute)
admin_router = APIRouter(tags=["health"], route_class=AdminRoute)

#: What a worker's heartbeat shows to every key: nothing that says where it runs, and on what.
SHOWN = (
    "phase",
    "model",
    "checkpoint",
    "clock_skew_s",
    "engine",
    "jobs_in_flight",
    "places",
    "engine_running",
    "engine_waiting",
    "engine_running_peak",
    "engine_restarts",
)


@router.get("/v1/workers", response_model=answers.Workers)
async def list_workers(services: ServicesDep) -> dict[str, Any]:
    """List the engine workers: phase, engine, how full it is. Hosts and GPUs are the operators' own: `sightline doctor`."""
    return {"object": "list", "data": [_public(worker) for worker in await services.workers.workers()]}


def _public(worker: dict[str, Any]) -> dict[str, Any]:
    own = {"id": worker_id(worker), "gpus": len(worker.get("gpus", ()))}
    return own | {name: worker[name] for name in SHOWN if name in worker}


@admin_router.post("/v1/workers/{worker_id}/drain", status_code=202, response_model=answers.Worker)
async def drain_worker(worker_id: str, services: ServicesDep, owner: OwnerDep) -> dict[str, Any]:
    """Have a worker take no more jobs, finish those that it holds, and end, as at a SIGTERM; for a key that may administer.

    It hears so within a second, and hands back what `SIGHTLINE_DRAIN_S` does not finish. Whatever keeps it running, such as
    `sightline up`, a container's restart policy or a Deployment, starts another in its place.
    """
    for worker in await services.workers.workers():
        shown = _public(worker)
        if shown["id"] == worker_id and await services.workers.drain(worker["name"]):
            log.info("worker.drain_ordered", worker=worker_id, by=owner)
            return shown
    msg = "no worker by that id is running"
    raise NotFound(msg)
