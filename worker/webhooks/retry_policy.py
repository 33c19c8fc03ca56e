"""What follows an attempt: delivered, tried again and when, given up, or disabled; a target has a circuit breaker. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from shared.store.deliveries import Delivery, Verdict
from shared.webhook_client import Answer

OPEN_AFTER = 5  #: failures in a row after which a target is left alone for a while, then gets one delivery at a time
PAUSE_S, MAX_PAUSE_S = 10.0, 600.0  #: doubled by each further failure
MAX_RETRY_AFTER_S = 86_400.0
DISABLE_AFTER_S = 5 * 86_400.0  #: as Svix; nothing has been taken in all that time


@dataclass(frozen=True)
class Decision:
    """What an answer leads to. Times are seconds from now."""

    verdict: Verdict
    next_s: float = 0.0
    pause_s: float = 0.0
    reason: str = ""


def decide(answer: Answer, delivery: Delivery, *, schedule_s: tuple[float, ...], jitter: float) -> Decision:
    """Judge an attempt. Pure.

    Args:
        answer: what came of it.
        delivery: which attempt it was, and how its target has been doing.
        schedule_s: delays before each attempt after the first.
        jitter: what the delay is multiplied by.
    """
    if answer.is_success:
        return Decision("delivered")
    if answer.code == HTTPStatus.GONE:
        reason = "the receiver answered 410 Gone"
        return Decision("disabled" if delivery.endpoint_id else "given_up", reason=reason)
    if delivery.endpoint_id and delivery.failing_s >= DISABLE_AFTER_S:
        days, last = DISABLE_AFTER_S / 86_400, answer.error or answer.code
        reason = f"every delivery has failed for {days:.0f} days, the last one with {last}"
        return Decision("disabled", reason=reason)
    asked_s = min(answer.retry_after_s, MAX_RETRY_AFTER_S)
    beyond = delivery.failures + 1 - OPEN_AFTER
    pause_s = max(asked_s, min(PAUSE_S * 2.0**beyond, MAX_PAUSE_S) if beyond >= 0 else 0.0)
    if delivery.attempt > len(schedule_s):
        return Decision("given_up", pause_s=pause_s)
    return Decision("retry", max(schedule_s[delivery.attempt - 1] * jitter, asked_s), pause_s)
