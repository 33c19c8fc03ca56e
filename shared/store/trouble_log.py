"""Writes down what is wrong with Redis, once, and not for each request and each chore that meets it."""

from __future__ import annotations

import time

import structlog

from shared.store.key_names import PREFIX
from shared.store.redis_errors import explain

log = structlog.get_logger()

#: What is wrong for longer is logged again after this; what was right for so long in between is logged at once.
AGAIN_S, QUIET_S = 300.0, 10.0


class OncePerReason:
    """Says whether a reason is new: everything in a process meets it at the same time, again and again."""

    def __init__(self) -> None:
        """Begin with nothing logged."""
        self.prefix = PREFIX
        self._reason, self._logged_at_s, self._seen_at_s = "", 0.0, 0.0

    def is_news(self, reason: str, now_s: float) -> bool:
        """Whether to log it.

        Args:
            reason: what is wrong now.
            now_s: by a clock that only goes forward.
        """
        news = reason != self._reason or now_s - self._seen_at_s > QUIET_S or now_s - self._logged_at_s > AGAIN_S
        self._reason, self._seen_at_s = reason, now_s
        if news:
            self._logged_at_s = now_s
        return news


_logging = OncePerReason()


def remember_prefix(prefix: str) -> str:
    """Name this prefix, of this process, in the rights that a Redis user lacks."""
    _logging.prefix = prefix
    return prefix


def log_trouble(error: BaseException, **where: object) -> None:
    """Write down what is wrong with Redis, once, and the remedy.

    Args:
        error: as for :func:`explain`.
        where: what was to be done.
    """
    trouble = explain(error, _logging.prefix)
    if _logging.is_news(trouble.reason, time.monotonic()):
        log.warning("store.unreachable", reason=trouble.reason, answer=trouble.answer, remedy=trouble.remedy, **where)
