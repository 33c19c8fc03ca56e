"""API keys over HTTP, for those that were made with ``sightline keys create --admin``.

The right to administer is given, and the last key that has it is revoked, only where the service runs: whoever gets hold of
such a key cannot make a second one with that right.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal, cast

import structlog
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field, StringConstraints

from api.authentication import AdminRoute, OwnerDep
from api.services import ServicesDep
from shared.errors import NotFound
from shared.fields import Strict
from shared.store.api_keys import NO_KEY, ApiKey, Limits

log = structlog.get_logger()

router = APIRouter(prefix="/v1/keys", tags=["keys"], route_class=AdminRoute)

#: Without control characters: `sightline keys list` prints it to terminals.
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
Limit = Annotated[int | None, Field(ge=0, lt=2**53)]
Weight = Annotated[float | None, Field(ge=0.01, le=100)]


class KeyLimits(Strict):
    """What a key may do; 0 is no limit, and what is left out stays as it is."""

    max_requests: Limit = Field(None, description="a minute")
    max_queued: Limit = Field(None, description="jobs that wait")
    max_running: Limit = Field(None, description="jobs at a time")
    max_jobs_day: Limit = Field(None, description="jobs created in a day, which begins at midnight, UTC")
    max_vision_tokens_day: Limit = Field(None, description="vision tokens of jobs that ended in a day")
    weight: Weight = Field(None, description="its share of the workers beside other keys, which have 1")

    def given(self) -> Limits:
        """Give those that are named."""
        return cast("Limits", self.model_dump(include=set(KeyLimits.model_fields), exclude_none=True))


class NewKey(KeyLimits):
    """A key to make."""

    name: Name


class KeyView(BaseModel):
    """A key, as those see it that may administer keys."""

    id: str
    object: Literal["api_key"] = "api_key"
    created_at: int
    name: str
    admin: bool
    max_requests: int
    max_queued: int
    max_running: int
    max_jobs_day: int
    max_vision_tokens_day: int
    weight: float


class MadeKey(KeyView):
    """A new key, with its secret."""

    secret: str


class KeyPage(BaseModel):
    """A page of keys."""

    object: Literal["list"] = "list"
    data: list[KeyView]
    has_more: bool
    first_id: str | None
    last_id: str | None


class RevokedKey(BaseModel):
    """That a key is valid no more."""

    id: str
    object: Literal["api_key.deleted"] = "api_key.deleted"
    deleted: Literal[True] = True


def _view(key: ApiKey) -> KeyView:
    return KeyView(**asdict(key))


@router.post("", status_code=201)
async def create_key(body: NewKey, services: ServicesDep, owner: OwnerDep) -> MadeKey:
    """Make a key. Its ``secret`` is shown here, and never again."""
    key, secret = await services.keys.create(body.name, **body.given())
    log.info("key.created", key=key.id, by=owner)
    return MadeKey(**asdict(key), secret=secret)


@router.get("")
async def list_keys(
    services: ServicesDep, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str | None = None
) -> KeyPage:
    """List the keys, oldest first; ``after`` takes the ``last_id`` of the page before."""
    keys, more = await services.keys.list_page(limit=limit, after=after)
    ids: dict[str, Any] = {"first_id": keys[0].id, "last_id": keys[-1].id} if keys else {"first_id": None, "last_id": None}
    return KeyPage(data=[_view(key) for key in keys], has_more=more, **ids)


@router.get("/{key_id}")
async def get_key(key_id: str, services: ServicesDep) -> KeyView:
    """Read a key; its secret is kept nowhere."""
    return _view(await services.keys.get(key_id))


@router.patch("/{key_id}")
async def limit_key(key_id: str, body: KeyLimits, services: ServicesDep, owner: OwnerDep) -> KeyView:
    """Set limits of a key from now on; those that are not named stay as they are."""
    key = await services.keys.get(key_id)
    if limits := body.given():
        await services.keys.limit(key.id, **limits)
        log.info("key.limited", key=key.id, by=owner, **limits)
    return _view(await services.keys.get(key_id))


@router.delete("/{key_id}")
async def revoke_key(key_id: str, services: ServicesDep, owner: OwnerDep) -> RevokedKey:
    """Make a key invalid at once; its jobs run on. The last one that may administer others stays."""
    if not await services.keys.revoke(key_id, keep_admin=True):
        raise NotFound(NO_KEY)
    log.info("key.revoked", key=key_id, by=owner)
    return RevokedKey(id=key_id)
