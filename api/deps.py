"""What the routes are given: the parts of the gateway, wired once when it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from api.finals import Finals
from shared.blobs import Blobs
from shared.endpoints import Endpoints
from shared.event_log import EventLog
from shared.outbox import Outbox
from shared.queue import Doorbell
from shared.roster import Roster
from shared.settings import Settings
from shared.store import JobStore
from shared.uploads import Uploads

#: There are no API keys yet: everybody on the loopback interface is the same owner.
OWNER = "local"


@dataclass(frozen=True)
class Parts:
    """The gateway's parts, alive as long as it is."""

    settings: Settings
    store: JobStore
    uploads: Uploads
    roster: Roster
    blobs: Blobs
    doorbell: Doorbell
    finals: Finals
    events: EventLog
    endpoints: Endpoints
    outbox: Outbox


def get_parts(request: Request) -> Parts:
    """Give the parts to a route."""
    return cast("Parts", request.app.state.parts)


PartsDep = Annotated[Parts, Depends(get_parts)]


def get_owner() -> str:
    """Say who asks."""
    return OWNER


OwnerDep = Annotated[str, Depends(get_owner)]
