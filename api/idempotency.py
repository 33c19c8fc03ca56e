"""The ``Idempotency-Key`` of a request that creates a job. Redis remembers it, see :mod:`shared.store.submits`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Request
from pydantic import AfterValidator

from shared.errors import InvalidRequest

MAX_KEY_LENGTH = 255


def _check(key: str) -> str:
    """Give a key back that can be kept.

    Raises:
        ValueError: it is empty, too long, or more than ASCII, which is all that a header carries without guessing.
    """
    if not 1 <= len(key) <= MAX_KEY_LENGTH or not key.isascii():
        msg = f"it should have 1 to {MAX_KEY_LENGTH} characters of ASCII"
        raise ValueError(msg)
    return key


IdempotencyKeyDep = Annotated[Annotated[str, AfterValidator(_check)] | None, Header(alias="idempotency-key")]

KEY_HEADER = {
    "name": "idempotency-key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_LENGTH},
    "description": "makes a repetition of the request harmless: it answers with the first one's job",
}


def idempotency_key(request: Request) -> str | None:
    """Give the key under which a repetition of a request is harmless; None where there is none.

    Raises:
        InvalidRequest: it cannot be kept.
    """
    key = request.headers.get("idempotency-key")
    try:
        return None if key is None else _check(key)
    except ValueError as error:
        raise InvalidRequest(f"idempotency-key: {error}", param="idempotency-key") from error
