"""Reads server-sent events as a browser does, in as many lines as that takes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class Told:
    """One event off the wire."""

    id: str
    type: str
    data: dict[str, Any]


async def tell(client: httpx.AsyncClient, path: str, *, after: str | None = None) -> AsyncIterator[Told]:
    """Open a stream and give its events until the server ends it."""
    headers = {"last-event-id": after} if after else {}
    async with client.stream("GET", path, headers=headers, timeout=60) as answer:
        assert answer.status_code in {200, 204}, await answer.aread()
        fields: dict[str, str] = {}
        last_id = after or ""
        async for line in answer.aiter_lines():
            if not line and "data" in fields:
                last_id = fields.get("id", last_id)  # an event without one leaves it as it was
                yield Told(last_id, fields["event"], json.loads(fields["data"]))
                fields = {}
            elif line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value


def text_of(events: list[Told]) -> str:
    """Join the deltas as a client does."""
    text = ""
    for event in events:
        text = "" if event.type == "job.reset" else text + event.data.get("text", "")
    return text
