"""How the service is: alive, ready, its queue."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from redis.exceptions import RedisError

from api import answers
from api.authentication import KeyedRoute
from api.autoscaling import Load, demand
from api.services import Services, ServicesDep
from shared.aio import Chores
from shared.errors import SightlineError, StoreUnavailable
from shared.store import clock
from shared.store.parts import remarks
from shared.store.redis_errors import explain

MAX_LATE_S = 5.0  #: a loop that comes round so late answers nobody in time
LOST_AFTER_S = 60.0  #: longer than any call takes: four attempts of ten seconds, and the pauses between them

#: What orchestrators ask, without a key.
open_router = APIRouter(tags=["health"])
router = APIRouter(tags=["health"], route_class=KeyedRoute)


class NotReady(StoreUnavailable):
    """No worker is ready yet; jobs are accepted and wait."""

    code = "not_ready"


class NotAlive(SightlineError):
    """This process cannot serve any more; it should be restarted."""

    code = "not_alive"
    status = 503


@open_router.get("/livez", response_model=answers.Alive)
async def livez(services: ServicesDep) -> dict[str, str]:
    """Say that the process can serve; a restart is what helps where it cannot."""
    if services.pulse.late_s > MAX_LATE_S:
        msg = f"the gateway is {services.pulse.late_s:.0f} s behind with what it has to do"
        raise NotAlive(msg)
    if (stuck_s := services.store.redis.pool.stuck_s) > LOST_AFTER_S:
        msg = f"for {stuck_s:.0f} s no connection to Redis was given back, though all are in use"
        raise NotAlive(msg)
    return {"status": "ok"}


@open_router.get("/health", response_model=answers.Alive)
async def health(services: ServicesDep) -> dict[str, str]:
    """Say the same as ``/livez``: probes made for other servers ask here, and a gateway takes jobs while its workers load."""
    return await livez(services)


@open_router.get("/version", response_model=answers.Version)
async def version(request: Request) -> dict[str, str]:
    """Name this version."""
    return {"version": request.app.version}


@open_router.get("/readyz", response_model=answers.Ready)
async def readyz(request: Request, services: ServicesDep) -> dict[str, Any]:
    """Say whether a job submitted now would run: Redis answers, a worker is ready, and all of the gateway goes on.

    It names what fails in workers beside their jobs, too.
    """
    chores: Chores = request.app.state.chores
    if chores.down:
        msg = f"a part of the gateway has ended and is begun again: {', '.join(chores.down)}; its log says why"
        raise NotReady(msg, retry_after_s=5)
    try:
        await services.check.check_safety()
        await services.check.probe()
        workers = await services.workers.workers()
        warnings = await _warnings(services, workers)
    except RedisError as error:
        raise StoreUnavailable(str(explain(error, services.redis.prefix)), retry_after_s=5) from error
    phases = Counter(worker["phase"] for worker in workers)
    if not phases["ready"]:
        others = ", ".join(f"{n} {phase}" for phase, n in phases.items()) or "no worker is running"
        msg = f"no worker is ready: {others}"
        raise NotReady(msg, retry_after_s=5)
    return {"status": "ok", "workers": len(workers), "warnings": warnings}


async def _warnings(services: Services, workers: list[dict[str, Any]]) -> list[str]:
    """Tell what works, but not as it should: wrong clocks, chores that fail, and a default model that nobody serves."""
    skews_s = [("the gateway", await services.clock.look()), *(("a worker", w.get("clock_skew_s", 0.0)) for w in workers)]
    warnings = [f"{name}: {clock.remark(skew_s)}" for name, skew_s in skews_s if clock.is_off(skew_s)]
    if failing := sorted({chore for worker in workers for chore in worker.get("failing_chores", ())}):
        warnings.append(f"chores of a worker fail: {', '.join(failing)}; its log says why")
    ready, default = await services.models.ready(), services.models.default
    warnings += remarks(await services.presence.look())
    if default not in ready:
        warnings.append(f"jobs that name no model wait for {default}, of which no worker is ready; ready: {', '.join(ready)}")
    return warnings


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(services: ServicesDep) -> PlainTextResponse:
    """Count jobs, webhooks and workers, in Prometheus's text form."""
    return PlainTextResponse(await services.scrape.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/queue", response_model=answers.Queue)
async def queue(services: ServicesDep) -> dict[str, Any]:
    """Count the jobs by state; ``desired_workers`` is what an autoscaler should look at."""
    looks = services.store.counts(), services.tallies.look(), services.workers.workers()
    counts, tally, workers = await asyncio.gather(*looks)
    ready = [worker for worker in workers if worker["phase"] == "ready"]
    load = Load(
        queued=counts["queued"],
        running=counts["running"],
        ready=len(ready),
        starting=sum(worker["phase"] in {"starting", "loading"} for worker in workers),
        slots=sum(worker.get("places", 0) for worker in ready),
        ended_recently=tally.ended_recently,
        mean_run_s=tally.mean_run_s,
    )
    facts = {
        "load": counts["queued"] + counts["running"],
        "oldest_age_s": round(max(tally.oldest_s.values(), default=0.0), 1),
        "workers_ready": load.ready,
        "workers_starting": load.starting,
        "slots": load.slots,
    }
    return {**counts, **facts, **asdict(demand(load))}
