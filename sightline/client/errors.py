"""What goes wrong between a client and the service."""

from __future__ import annotations

from typing import Any

import httpx

#: Codes after which the same request may work later; the service has done nothing then, or a key makes a repetition harmless.
PASSING = frozenset(
    {
        "unreachable",
        "restarting",
        "queue_full",
        "rate_limit_exceeded",
        "too_many_connections",
        "too_many_batches",
        "store_unavailable",
        "storage_unavailable",
        "storage_full",
        "request_timeout",
        "model_not_ready",
        "busy_proxy",
    }
)
#: Codes of the client's own: what is there is no Sightline, or nothing is.
LOST = frozenset({"unreachable", "not_sightline", "busy_proxy"})
#: What proxies answer while the service behind them is away.
_PROXY_STATUSES = frozenset({429, 502, 503, 504})
#: How long a service that names no time is left alone.
PAUSE_S = 1.0


class ServiceError(Exception):
    """The service refused or failed.

    Attributes:
        code: one of the service's error codes; the client's own are ``unreachable``, ``not_sightline`` and ``busy_proxy``.
        status: of HTTP; None where nothing answered.
        param: the field at fault, as in ``messages.0.content.1``.
        request_id: what the service's log calls the request.
        retry_after_s: when the service wants to be asked again, where it says so.
    """

    def __init__(  # each is a fact of its own
        self,
        message: str,
        code: str,
        *,
        status: int | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """Keep the facts."""
        super().__init__(message)
        self.message: str = message
        self.code: str = code
        self.status: int | None = status
        self.param: str | None = param
        self.request_id: str | None = request_id
        self.retry_after_s: float | None = retry_after_s

    @property
    def passes(self) -> bool:
        """Whether the same request may work later."""
        return self.code in PASSING

    @property
    def is_lost(self) -> bool:
        """Whether no service was met, so that other requests would fail, too."""
        return self.code in LOST


def unreachable(url: str, error: httpx.TransportError) -> ServiceError:
    """Say that nothing answered."""
    if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout | httpx.PoolTimeout):
        return ServiceError(f"the service at {url} did not answer in time", "unreachable")
    return ServiceError(f"no service answers at {url}: start one with `sightline up`, or name it with --url", "unreachable")


def body_of(answer: httpx.Response, url: str) -> dict[str, Any]:
    """Read an answer.

    Raises:
        ServiceError: it is an error, or none of Sightline's.
    """
    try:
        body = answer.json()
    except ValueError:
        body = None
    body_error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(body, dict) or (answer.is_error and not isinstance(body_error, dict)):
        code = "busy_proxy" if answer.status_code in _PROXY_STATUSES else "not_sightline"
        msg = f"{url} answered HTTP {answer.status_code}, but not as Sightline does"
        raise ServiceError(msg, code, status=answer.status_code, retry_after_s=_retry_after_s(answer))
    if answer.is_success:
        return body
    if not isinstance(body_error, dict):
        msg = f"{url} answered HTTP {answer.status_code}; name the address that it leads to"
        raise ServiceError(msg, "not_sightline", status=answer.status_code)
    raise ServiceError(
        str(body_error.get("message", body)),
        str(body_error.get("code", answer.status_code)),
        status=answer.status_code,
        param=body_error.get("param"),
        request_id=answer.headers.get("x-request-id"),
        retry_after_s=_retry_after_s(answer),
    )


def _retry_after_s(answer: httpx.Response) -> float | None:
    seconds = answer.headers.get("retry-after", "")
    return float(seconds) if seconds.isdecimal() else None
