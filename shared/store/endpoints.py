"""Registered webhook endpoints: where an owner's events go, which of them, and what they are signed with.

Keys: ``endpoint:<id>`` (hash) · ``endpoints:<owner>`` id → created · ``old_secret:<id>`` as long as it signs beside the new
one. The secrets lie in Redis, since each delivery is signed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import urlsplit

from shared.errors import NotFound, TooManyEndpoints
from shared.signing import make_secret
from shared.store.ids import new_id
from shared.store.records import Records, flat

MAX_ENDPOINTS = 100  #: of one owner: each of its events is matched against all of them
MAX_AT_HOST = 10  #: of them for one host, which else would get a hundred posts for each request of somebody who means it harm
ROTATION_S = 24 * 3600  #: both secrets sign for so long, when the old one is to be kept


@dataclass(frozen=True)
class Endpoint:
    """An endpoint as senders and routes need it."""

    id: str
    name: str
    url: str
    events: tuple[str, ...]
    payload: str
    created_at: int
    updated_at: int
    secret: str
    disabled_reason: str | None
    old_secret: str | None = None  #: while it still signs

    @property
    def secrets(self) -> list[str]:
        """What deliveries are signed with, the newest first."""
        return [self.secret, *([self.old_secret] if self.old_secret else [])]

    def view(self) -> dict[str, Any]:
        """Give what its owner may see: everything but the secrets."""
        return {
            "id": self.id,
            "object": "webhook_endpoint",
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "name": self.name,
            "url": self.url,
            "event_types": list(self.events),
            "payload": self.payload,
            "signing_secret_hint": f"whsec_…{self.secret[-4:]}",
            "status": "disabled" if self.disabled_reason else "enabled",
            "disabled_reason": self.disabled_reason,
        }


class Endpoints(Records):
    """Reads and changes endpoints; an unknown id and another owner's raise :class:`NotFound` alike."""

    async def create(self, *, owner: str, name: str, url: str, events: list[str], payload: str) -> Endpoint:
        """Register an endpoint; its secret is made here.

        Raises:
            TooManyEndpoints: the owner has as many as one may have, or as one host may have.
        """
        endpoint_id = new_id("we")
        facts = {"name": name, "url": url, "events": events, "payload": payload, "secret": make_secret()}
        limits = MAX_ENDPOINTS, MAX_AT_HOST
        done = await self._run("add_endpoint", endpoint_id, owner, *limits, *_flat({"host": _host(url), **facts}))
        if not done:
            msg = f"there are {MAX_ENDPOINTS} webhook endpoints already; delete one that is not needed"
            raise TooManyEndpoints(msg)
        _refuse_full_host(done, url)
        return await self.get(endpoint_id, owner=owner)

    async def get(self, endpoint_id: str, *, owner: str | None = None) -> Endpoint:
        """Read one.

        Raises:
            NotFound: there is none, or it is another owner's.
            RecordUnreadable: the record is damaged, or of another version.
        """
        read = await self._owned(endpoint_id)
        if not read or owner not in (None, read[0]):
            raise _unknown()
        return read[1]

    async def list(self, *, owner: str, limit: int, after: str | None) -> tuple[list[Endpoint], bool]:
        """List an owner's, oldest first, and say whether there are more.

        Raises:
            InvalidRequest: nothing tells where ``after`` stood.
        """

        async def read(endpoint_id: str) -> Endpoint | None:
            found = await self._owned(endpoint_id)
            return found and found[1]

        return await self._list(f"endpoints:{owner}", read, limit=limit, after=after, newest_first=False)

    async def _owned(self, endpoint_id: str) -> tuple[str, Endpoint] | None:
        old_secret, found = await asyncio.gather(
            self.redis.ask("GET", self._key(f"old_secret:{endpoint_id}")),
            self._record(f"endpoint:{endpoint_id}", lambda record: (record["owner"], _endpoint(endpoint_id, record))),
        )
        return found and (found[0], replace(found[1], old_secret=old_secret))

    async def update(self, endpoint_id: str, *, owner: str, enable: bool, **fields: Any) -> Endpoint:
        """Change some fields; ``enable`` puts a disabled one in use again, with a clean record."""
        return await self._change(endpoint_id, owner, "enable" if enable else "update", fields)

    async def rotate(self, endpoint_id: str, *, owner: str, keep_old: bool) -> Endpoint:
        """Give an endpoint a new secret; kept, the old one signs beside it for a day."""
        keep_ms = ROTATION_S * 1000 if keep_old else 0
        return await self._change(endpoint_id, owner, "rotate", {"secret": make_secret()}, keep_ms=keep_ms)

    async def delete(self, endpoint_id: str, *, owner: str) -> None:
        """Forget an endpoint; what was due to it is given up."""
        if not await self._run("change_endpoint", endpoint_id, owner, "delete"):
            raise _unknown()

    async def _change(
        self,
        endpoint_id: str,
        owner: str,
        what: Literal["update", "enable", "rotate"],
        fields: dict[str, Any],
        *,
        keep_ms: int = 0,
    ) -> Endpoint:
        host = _host(fields["url"]) if "url" in fields else ""
        done = await self._run("change_endpoint", endpoint_id, owner, what, MAX_AT_HOST, host, keep_ms, *_flat(fields))
        if not done:
            raise _unknown()
        _refuse_full_host(done, fields.get("url", ""))
        return await self.get(endpoint_id, owner=owner)


def _unknown() -> NotFound:
    return NotFound("there is no webhook endpoint by that id")


def _host(url: str) -> str:
    return (urlsplit(url).hostname or "").rstrip(".")


def _refuse_full_host(done: int, url: str) -> None:
    if done < 0:
        msg = f"there are {MAX_AT_HOST} webhook endpoints for {_host(url)} already, which is as many as one host may have"
        raise TooManyEndpoints(msg, param="url")


def _flat(fields: dict[str, Any]) -> list[str | int]:
    """Lay fields out for a script; event types each end in a space, so that the script can look for one."""
    values = {k: "".join(f"{event} " for event in v) if k == "events" else v for k, v in fields.items()}
    return flat(values)


def _endpoint(endpoint_id: str, record: dict[str, str]) -> Endpoint:
    return Endpoint(
        id=endpoint_id,
        name=record["name"],
        url=record["url"],
        events=tuple(record["events"].split()),
        payload=record["payload"],
        created_at=int(record["created_ms"]) // 1000,
        updated_at=int(record["updated_ms"]) // 1000,
        secret=record["secret"],
        disabled_reason=record.get("disabled_reason"),
    )
