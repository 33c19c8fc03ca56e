"""Groups: what jobs have in common that say so, counted, with a webhook when all of it has ended."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path

from api import answers
from api.authentication import KeyedRoute, OwnerDep
from api.intake import check_webhook
from api.services import ServicesDep
from shared.fields import Strict
from shared.jobs import GroupName, HookUrl

router = APIRouter(prefix="/v1/groups", tags=["jobs"], route_class=KeyedRoute)


class GroupHook(Strict):
    """Who hears, once, when nothing of the group waits or runs."""

    url: HookUrl


class GroupChange(Strict):
    """What is set of a group."""

    webhook: GroupHook


Name = Annotated[GroupName, Path(description="as in the jobs' `group`")]


@router.get("/{group}", response_model=answers.Group)
async def get_group(group: Name, services: ServicesDep, owner: OwnerDep) -> dict[str, Any]:
    """Count a group's jobs by state; ``per_s`` is how many ended a second lately, ``left_s`` how long the rest takes so."""
    found = await services.selection.group(owner, group)
    return {
        "object": "group",
        "id": found.id,
        "counts": found.counts,
        "per_s": round(found.per_s, 3),
        "left_s": round(found.n_open / found.per_s, 1) if found.per_s else None if found.n_open else 0,
        "webhook": {"url": found.webhook_url} if found.webhook_url else None,
    }


@router.post("/{group}", response_model=answers.Group)
async def change_group(group: Name, body: GroupChange, services: ServicesDep, owner: OwnerDep) -> dict[str, Any]:
    """Have an address hear, as ``group.ended``, when nothing of a group waits or runs: once, so after the last submit."""
    check_webhook(body.webhook.url, services.settings)
    await services.selection.watch_group(owner, group, body.webhook.url)
    return await get_group(group, services, owner)
