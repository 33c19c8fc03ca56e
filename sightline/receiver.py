"""A webhook receiver on this machine: verifies each delivery and keeps it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from shared.signing import sign, verify
from sightline.screen import Failure, bad, note, print_json

MAX_BODY_BYTES = 64 * 1024


@dataclass(frozen=True)
class Received:
    """One delivery that arrived."""

    id: str
    type: str
    job: dict[str, Any]
    verified: bool


class Receiver:
    """Listens on the loopback interface while its ``with`` block runs; answers 401 to what is not genuine."""

    def __init__(
        self,
        secret: str,
        *,
        port: int = 0,
        on_delivery: Callable[[Received | None], None] = lambda _: None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """Bind the port.

        Args:
            secret: what deliveries are signed with.
            port: 0 takes a free one.
            on_delivery: gets each delivery as it comes; None where it was not genuine.
            now_s: the clock that signatures are held against; a trial may set it.

        Raises:
            OSError: the port is taken.
            ValueError: the secret is not base64.
        """
        sign(secret, event_id="evt", at_s=0, body=b"")
        self.received: list[Received] = []
        self._secret = secret
        self._tell, self._now_s = on_delivery, now_s
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Where to send webhooks."""
        return f"http://127.0.0.1:{self._server.server_port}/webhook"

    def __enter__(self) -> Self:
        """Start to listen."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def wait_for(self, job_ids: set[str], *, timeout_s: float) -> bool:
        """Wait until a genuine delivery has said the end of each of these jobs."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if job_ids <= {delivery.job["id"] for delivery in self.received if delivery.verified}:
                return True
            time.sleep(0.05)
        return False

    def _take(self, headers: dict[str, str], body: bytes) -> bool:
        event_id = headers.get("webhook-id", "")
        verified = verify(
            self._secret,
            event_id=event_id,
            timestamp=headers.get("webhook-timestamp", ""),
            signatures=headers.get("webhook-signature", ""),
            body=body,
            now_s=self._now_s(),
        )
        if verified:
            payload = json.loads(body)
            self.received.append(Received(event_id, payload["type"], payload["data"], verified))
        self._tell(self.received[-1] if verified else None)
        return verified

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        take = self._take

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(min(int(self.headers.get("content-length", 0)), MAX_BODY_BYTES))
                genuine = take({name.lower(): value for name, value in self.headers.items()}, body)
                self.send_response(204 if genuine else 401)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def receive(secret: str, *, port: int, as_json: bool) -> None:
    """Verify deliveries and print them, until interrupted.

    Raises:
        Failure: the port is taken.
        ValueError: the secret is none.
    """

    def show(delivery: Received | None) -> None:
        if delivery is None:
            bad("a delivery that is not signed with this secret, or too old")
        elif as_json:
            print_json({"id": delivery.id, "type": delivery.type, "data": delivery.job})
        else:
            job = delivery.job
            said = (job.get("output") or {}).get("text") or (job.get("error") or {}).get("message") or ""
            print(f"{delivery.type} {job['id']} {said}".rstrip(), flush=True)

    try:
        with Receiver(secret, port=port, on_delivery=show) as receiver:
            note(f"listening at {receiver.url}")
            while True:
                time.sleep(0.5)
    except OSError as error:
        msg = f"cannot listen on port {port}: {error.strerror}"
        raise Failure(msg) from error
