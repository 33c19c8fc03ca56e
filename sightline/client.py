"""A client for the service: upload, submit, wait."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import httpx

#: How long one request waits for a job's end before it asks again.
WAIT_S = 20
#: How long a gateway that says it is being restarted may take; one that waits for its worker's model answers all the same.
RESTART_S = 30.0
KEY = "idempotency-key"  #: makes a repetition of a submission harmless


class ServiceError(Exception):
    """The service refused or failed; ``code`` is one of its error codes."""

    def __init__(self, message: str, code: str, *, retry_after_s: float = 1.0) -> None:
        """Keep them; ``retry_after_s`` is when the service wants to be asked again, where it does."""
        super().__init__(message)
        self.code, self.retry_after_s = code, retry_after_s


class Client:
    """Talks to a gateway.

    >>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
    ...     upload = client.upload(Path("cat.jpg"))
    ...     job = client.submit({"prompt": "What is this?", "images": [upload["id"]]})
    ...     print(client.wait(job["id"])["output"]["text"])
    """

    def __init__(self, base_url: str, *, timeout_s: float = 60.0, api_key: str | None = None) -> None:
        """Open a connection pool.

        Args:
            base_url: the gateway; ``host:port`` will do, and so will the ``/v1`` that OpenAI's clients are given.
            timeout_s: for one answer, uploads included.
            api_key: where the gateway asks for one; left out, the variable SIGHTLINE_API_KEY.

        Raises:
            ServiceError: the address is none.
        """
        key = api_key or os.environ.get("SIGHTLINE_API_KEY")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self.url = (base_url if "://" in base_url else f"http://{base_url}").rstrip("/").removesuffix("/v1")
        try:
            self._http = httpx.Client(base_url=self.url, timeout=timeout_s, trust_env=False, headers=headers)
        except httpx.InvalidURL as error:
            msg = f"{base_url} is no address of a service; write it as http://host:8000"
            raise ServiceError(msg, "unreachable") from error

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connections."""
        self._http.close()

    def request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Make a request, again where the gateway is being restarted and a repetition is harmless.

        Raises:
            ServiceError: an error answer, or none.
        """
        until: float | None = None
        while True:
            try:
                return self._ask(method, path, **options)
            except ServiceError as error:
                if error.code == "restarting" and (method != "POST" or "files" in options or KEY in options.get("headers", {})):
                    until = until or time.monotonic() + RESTART_S
                elif error.code != "unreachable":
                    raise
                if until is None or time.monotonic() > until:
                    raise
                time.sleep(error.retry_after_s)

    def _ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            msg = f"no service answers at {self.url}: start one with `sightline up`, or name it with --url"
            raise ServiceError(msg, "unreachable") from error
        try:
            body: dict[str, Any] = answer.json()
        except ValueError as error:
            msg = f"{self.url} answered HTTP {answer.status_code}, but not as Sightline does"
            raise ServiceError(msg, "not_sightline") from error
        if answer.is_error:
            error_body = body.get("error", {})
            told = str(error_body.get("message", body)), str(error_body.get("code", answer.status_code))
            seconds = answer.headers.get("retry-after", "")
            raise ServiceError(*told, retry_after_s=float(seconds) if seconds.isdecimal() else 1.0)
        return body

    def upload(self, path: Path) -> dict[str, Any]:
        """Upload a picture or video from disk."""
        name = os.fsencode(path.name).decode(errors="replace")  # not every file system keeps to UTF-8
        with path.open("rb") as file:
            return self.request("POST", "/v1/files", files={"file": (name, file)})

    def submit(self, body: dict[str, Any]) -> dict[str, Any]:
        """Submit a job; see POST /v1/jobs."""
        return self.request("POST", "/v1/jobs", json=body, headers={KEY: uuid4().hex})

    def wait(
        self, job_id: str, *, timeout_s: float | None = None, on_change: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """Wait for a job's end.

        Args:
            job_id: from :meth:`submit`.
            timeout_s: give up after this; left out, wait as long as it takes.
            on_change: is given the job each time it is read.

        Raises:
            TimeoutError: the job has not ended in time.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        step_s = 1 if on_change else WAIT_S
        while True:
            job = self.request("GET", f"/v1/jobs/{job_id}", params={"wait": step_s})
            if on_change:
                on_change(job)
            if job["status"] in {"succeeded", "failed", "cancelled"}:
                return job
            if until is not None and time.monotonic() > until:
                msg = f"{job_id} is still {job['status']} after {timeout_s:.0f} s"
                raise TimeoutError(msg)
