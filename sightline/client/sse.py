"""Server-sent events as they are read: lines into events, and where to go on after a drop. Pure.

httpx's own lines end at every character that Unicode calls a break, and texts hold such; here only a line feed ends one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from sightline.client.records import Event

#: Events that tell of the stream and not of jobs.
FAREWELLS = frozenset({"gateway.restarting", "error"})


class EventReader:
    """Reads the bytes of one stream after another, of the same events."""

    def __init__(self, after: str | None = None) -> None:
        """Begin after an event, or with the first."""
        self.last_id = after
        self._rest, self._fields = b"", dict[str, str]()

    @property
    def headers(self) -> dict[str, str]:
        """What a request for the next stream carries."""
        own = {"accept": "text/event-stream"}
        return own | {"last-event-id": self.last_id} if self.last_id else own

    def begin(self) -> None:
        """Forget what a stream that was cut off left unfinished."""
        self._rest, self._fields = b"", {}

    def feed(self, data: bytes) -> Iterator[Event]:
        """Give the events that these bytes complete."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            name, colon, value = line.rstrip(b"\r").decode(errors="replace").partition(":")
            if not name and not colon:
                if event := self._finish():
                    yield event
            elif name:
                value = value.removeprefix(" ")
                self._fields[name] = f"{self._fields['data']}\n{value}" if name == "data" and name in self._fields else value

    def _finish(self) -> Event | None:
        fields, self._fields = self._fields, {}
        if "data" not in fields:
            return None
        self.last_id = fields.get("id", self.last_id)
        data = json.loads(fields["data"])
        return Event(self.last_id or "", fields.get("event", "message"), data if isinstance(data, dict) else {"data": data})
