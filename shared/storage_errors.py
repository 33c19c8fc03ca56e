"""What a disk or an object store answers, as one of two errors; the log has the place and the reason, the client neither."""

from __future__ import annotations

import errno
import re
import time

import structlog

from shared.errors import StorageFull, StorageUnavailable

log = structlog.get_logger()

#: The last one is what a process gets whose files may grow no more.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_CODES = re.compile("StorageFull|QuotaExceeded")
#: A place that fails does so for every request; more lines say no more.
LOG_EVERY_S = 5.0
_logged_at: dict[str, float] = {}


def storage_error(error: Exception, place: str) -> StorageFull | StorageUnavailable:
    """Tell a place that is full from one that cannot be reached or takes no writes; log which place and why.

    Args:
        error: an OSError, or one of obstore's.
        place: the folder, or the address of the bucket.
    """
    number, reason = _read(error)
    full = number in _FULL or bool(_FULL_CODES.search(reason))
    now = time.monotonic()
    if now - _logged_at.get(place, -LOG_EVERY_S) >= LOG_EVERY_S:
        _logged_at[place] = now
        log.error("storage.failed", place=place, reason=reason, full=full)
    return StorageFull(retry_after_s=60) if full else StorageUnavailable(retry_after_s=5)


def _read(error: Exception) -> tuple[int | None, str]:
    """Give an error's number, where it has one, and a reason without what a store repeats of our signature."""
    if isinstance(error, OSError) and error.errno is not None:  # the disk's own; obstore has some OSErrors without a number
        return error.errno, f"{type(error).__name__}: {error}"
    text = str(error).partition("\n\nDebug source")[0]
    os_error = re.search(r"\(os error (\d+)\)", text)
    code = re.search("<Code>([A-Za-z]{1,60})</Code>", text)
    first = re.sub(r"\?\S*", "", text.partition("\n")[0].partition("<")[0])
    return int(os_error[1]) if os_error else None, f"{type(error).__name__}: {code[1] if code else first[:300]}"
