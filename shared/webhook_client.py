"""Hands one event over, once: signed, bounded in time and size, through the address guard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import httpx
import ssrfguard

from shared.signing import sign
from shared.tracing import tracer

MAX_ANSWER_BYTES = 64 * 1024  #: a receiver that says more is cut off, and has not taken the event
KEPT_BYTES = 2048  #: of an answer, for the delivery log


@dataclass(frozen=True)
class Answer:
    """What came of an attempt. ``code`` 0: there was no answer, or none that ends; ``error`` says why."""

    code: int
    ms: int
    text: str = ""
    error: str | None = None
    retry_after_s: float = 0.0

    @property
    def is_success(self) -> bool:
        """Whether the event was taken. A redirect is not followed, and is a failure."""
        return self.error is None and httpx.codes.is_success(self.code)

    def log(self, *, attempt: int, at: float) -> dict[str, Any]:
        """Give what the delivery log keeps."""
        return {
            "attempt": attempt,
            "at": at,
            "code": self.code or None,
            "ms": self.ms,
            "error": self.error,
            "answer": self.text,
        }


async def post_event(
    client: httpx.AsyncClient, url: str, body: bytes, *, event_id: str, secrets: Sequence[str], at_s: float, timeout_s: float
) -> Answer:
    """Post an event; where this is traced, the receiver is told the span.

    Args:
        client: from :func:`shared.address_guard.make_client`, so that it judges the address at this very moment.
        url: where to.
        body: the exact bytes.
        event_id: the same on every attempt.
        secrets: to sign with; two while one takes the other's place.
        at_s: the time, Unix seconds by Redis's clock: a host that is minutes off would sign what every receiver refuses.
        timeout_s: for everything together, from the name's look-up to the answer's last byte.
    """
    began = time.monotonic()
    headers = {
        "content-type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at_s)),
        "webhook-signature": " ".join(sign(secret, event_id=event_id, at_s=int(at_s), body=body) for secret in secrets),
    }
    if traceparent := tracer().traceparent():
        headers["traceparent"] = traceparent
    code, retry_after_s, kept = 0, 0.0, bytearray()
    try:
        async with asyncio.timeout(timeout_s), client.stream("POST", url, content=body, headers=headers) as answer:
            code, retry_after_s = answer.status_code, _retry_after_s(answer, at_s + time.monotonic() - began)
            error = await _read(answer, kept)
    except TimeoutError:
        error = "timeout"
    except httpx.TimeoutException:
        error = "timeout"
    except ssrfguard.TooManyRedirectsError:
        error = "redirect"
    except ssrfguard.SSRFGuardError:
        error = "address_refused"
    except (httpx.HTTPError, httpx.InvalidURL, OSError):
        error = "no_answer"
    text = bytes(kept).decode(errors="replace")
    return Answer(code, round((time.monotonic() - began) * 1000), text, error, retry_after_s)


async def _read(answer: httpx.Response, kept: bytearray) -> str | None:
    """Read an answer as it came over the wire: nothing is unpacked, so nothing can blow up."""
    n_bytes, is_plain = 0, "content-encoding" not in answer.headers
    async for chunk in answer.aiter_raw():
        n_bytes += len(chunk)
        if is_plain:
            kept += chunk[: KEPT_BYTES - len(kept)]
        if n_bytes > MAX_ANSWER_BYTES:
            return "answer_too_long"
    return None


def _retry_after_s(answer: httpx.Response, now_s: float) -> float:
    """Read ``Retry-After`` where it counts: seconds or a date."""
    given = answer.headers.get("retry-after", "")
    if answer.status_code not in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        return 0.0
    if given.isdecimal() and len(given) < 9:  # noqa: PLR2004  # three years in digits; more is no delay
        return float(given)
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - now_s)
    except ValueError:
        return 0.0
