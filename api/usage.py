"""What the caller's key used, by day and model: as JSON, or as a table for a spreadsheet."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field, model_validator

from api.authentication import KeyedRoute, OwnerDep
from api.job_filter import Instant
from api.services import ServicesDep
from shared.errors import AdminKeyRequired
from shared.fields import Strict
from shared.store.api_keys import ApiKey
from shared.store.lua import USAGE_DAYS
from shared.store.usage import Used, as_csv

router = APIRouter(tags=["usage"], route_class=KeyedRoute)

#: What is told where nobody says of when: about a month.
DAYS = 30
#: Whose usage a key that may administer others asks for, where it names no other.
ALL = "all"


class UsageQuery(Strict):
    """Which days, whose, and in which form."""

    since: Annotated[Instant | None, Field(description=f"on the first day, UTC; left out, {DAYS - 1} days before the last")] = (
        None
    )
    until: Annotated[Instant | None, Field(description="on the last day, UTC; left out, today")] = None
    key: Annotated[str | None, Field(min_length=1, max_length=64, description="this key, where left out")] = None
    format: Annotated[Literal["json", "csv"] | None, Field(description="goes before what `Accept` asks for")] = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.since is not None and self.until is not None and self.since > self.until:
            msg = "since is after until"
            raise ValueError(msg)
        return self

    def days(self, today: date) -> tuple[date, date]:
        """Give the first and the last day, of those that are known of."""
        last = today if self.until is None else min(_day(self.until), today)
        first = last - timedelta(days=DAYS - 1) if self.since is None else _day(self.since)
        return max(first, today - timedelta(days=USAGE_DAYS)), last


class UsageList(BaseModel):
    """What was used. Jobs count on the day on which they were created, all else on that on which they ended."""

    object: Literal["list"] = "list"
    data: list[Used]


@router.get("/v1/usage", response_model=UsageList, responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}})
async def get_usage(
    request: Request, asked: Annotated[UsageQuery, Query()], services: ServicesDep, owner: OwnerDep
) -> Response:
    """Tell what this key used: jobs and tokens by day and model, kept for 90 days; with ``Accept: text/csv`` as a table.

    A key that may administer others may name one of them, or ``all``.
    """
    first, last = asked.days(await services.usage.today())
    whose = asked.key or owner
    caller: ApiKey | None = request.state.key
    if whose != owner and not (caller and caller.admin):
        raise AdminKeyRequired
    used = await (services.usage.of_all(first, last) if whose == ALL else services.usage.of(whose, first, last))
    if asked.format == "csv" or (asked.format is None and "text/csv" in request.headers.get("accept", "")):
        return Response(as_csv(used), media_type="text/csv", headers={"vary": "accept"})
    return Response(UsageList(data=used).model_dump_json(), media_type="application/json", headers={"vary": "accept"})


def _day(instant: float) -> date:
    return datetime.fromtimestamp(instant, UTC).date()
