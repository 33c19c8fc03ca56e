"""Which jobs a list, a cancel or a retry of many is about, as clients say it: in a query, or in a body's ``filter``. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from shared.fields import Strict
from shared.jobs import GroupName, JobStatus, Priority
from shared.store.selection import Filter

MOST_IDS = 200


def _split(value: object) -> object:
    """Take one, several with commas between them, or a list."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list):
        return given
    words = [word for one in given for word in (one.split(",") if isinstance(one, str) else [one])]
    return [word.strip() if isinstance(word, str) else word for word in words]


def _instant(value: object) -> object:
    """Take Unix seconds or ISO 8601; without a zone it is UTC.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(value.replace(" ", "+"))  # a plus that nobody encoded came as a blank
    except ValueError as error:
        msg = "should be Unix seconds, or ISO 8601 as 2026-11-27T12:00:00Z"
        raise ValueError(msg) from error
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


Instant = Annotated[float, BeforeValidator(_instant), Field(ge=0, lt=2**33)]


class JobFilter(Strict):
    """What is left out fits all jobs. ``q`` is looked for in prompts and metadata, without regard to the case of A to Z."""

    model_config = ConfigDict(populate_by_name=True)

    status: Annotated[list[JobStatus], BeforeValidator(_split)] = Field(default_factory=list)
    priority: Annotated[Priority | None, Field(alias="class")] = None
    group: GroupName | None = None
    model: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    code: Annotated[str, Field(pattern="^[a-z_]{1,64}$")] | None = None
    since: Instant | None = None
    until: Instant | None = None
    q: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    ids: Annotated[list[str], BeforeValidator(_split), Field(max_length=MOST_IDS)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.ids and (self.model_fields_set & set(JobFilter.model_fields)) - {"ids", "status"}:
            msg = "ids goes with status alone"
            raise ValueError(msg)
        if self.since is not None and self.until is not None and self.since > self.until:
            msg = "since is after until"
            raise ValueError(msg)
        return self

    def among(self, *statuses: JobStatus, **more: Any) -> Filter:
        """Give it as the store takes it, for jobs in one of these states.

        Args:
            statuses: of which those are meant that the filter names, or all.
            more: what else the store is to look at.
        """
        named = frozenset(self.status) or frozenset(JobStatus)
        code = self.code and {JobStatus.FAILED, JobStatus.CANCELLED}
        return Filter(
            statuses=named & frozenset(statuses or JobStatus) & frozenset(code or JobStatus),
            group=self.group,
            since=self.since,
            until=self.until,
            priority=self.priority,
            model=self.model,
            code=self.code,
            words=self.q,
            ids=tuple(self.ids),
            **more,
        )
