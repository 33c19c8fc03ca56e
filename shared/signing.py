"""Signatures of webhooks as Standard Webhooks 1.0.0 has them. Pure, standard library only."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

TOLERANCE_S = 300  #: what the reference libraries allow a timestamp to be off
MAX_DIGITS = 12  #: of a timestamp, which is a stranger's text until it is verified


def make_secret() -> str:
    """Make a new secret: ``whsec_`` and 32 random bytes in base64."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def sign(secret: str, *, event_id: str, at_s: int, body: bytes) -> str:
    """Sign the exact bytes that are sent.

    Args:
        secret: ``whsec_`` and base64.
        event_id: the ``webhook-id`` header, the same on every attempt.
        at_s: the ``webhook-timestamp`` header, of this attempt.
        body: the request's body.

    Returns:
        The ``webhook-signature`` header.

    Raises:
        ValueError: the secret is not base64.

    Source:
        standard-webhooks spec 1.0.0, "Signature scheme"; its vector is among the tests.
    """
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError as error:
        msg = "a webhook secret is whsec_ followed by base64; make one with `sightline secret`"
        raise ValueError(msg) from error
    signed = b".".join((event_id.encode(), str(at_s).encode(), body))
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def verify(secret: str, *, event_id: str, timestamp: str, signatures: str, body: bytes, now_s: float) -> bool:
    """Say whether a delivery is genuine and fresh.

    Args:
        secret: the one shared with the sender.
        event_id: the ``webhook-id`` header.
        timestamp: the ``webhook-timestamp`` header.
        signatures: the ``webhook-signature`` header; it may hold several.
        body: the raw body.
        now_s: the receiver's clock, Unix seconds.
    """
    if not timestamp.isdecimal() or len(timestamp) > MAX_DIGITS or abs(now_s - int(timestamp)) > TOLERANCE_S:
        return False
    expected = sign(secret, event_id=event_id, at_s=int(timestamp), body=body).encode()
    return any(hmac.compare_digest(expected, given.encode()) for given in signatures.split(" "))
