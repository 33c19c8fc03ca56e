"""What a run would do: how many files, which cannot be read, how long it may take. Nothing is sent."""

from __future__ import annotations

from collections import Counter

from rich.filesize import decimal

from shared.media_types import HEAD_BYTES, sniff
from shared.strangers import describe
from sightline.client import Client, ServiceError
from sightline.client.files import SteadyFile
from sightline.describe.sources import Sources, facts_of
from sightline.screen import bad, counted, print_json

LISTED = 20
#: A rate from fewer ended jobs says little.
ENOUGH = 10


def look(sources: Sources, url: str, *, as_json: bool) -> int:
    """Look at all files, tell of those that cannot be read, and give the exit code."""
    kinds, unreadable, n_bytes = Counter[str](), list[tuple[str, str]](), 0
    for path, place, _ in sources.all():
        try:
            kinds[_kind(place)] += 1
            n_bytes += facts_of(place).st_size if place else 0
        except OSError as error:
            unreadable.append((path, error.strerror or str(error)))
    unreadable += sources.unreadable
    count = sum(kinds.values())
    rate = _rate(url)
    seconds = round(count / rate) if rate and count else None
    if as_json:
        listed = [{"path": path, "message": reason} for path, reason in unreadable]
        facts = {"files": count, "bytes": n_bytes, "kinds": dict(kinds), "left_out": sources.left_out}
        print_json({**facts, "not_entered": sources.not_entered, "unreadable": listed, "seconds": seconds})
        return 1 if unreadable else 0
    for path, reason in unreadable[:LISTED]:
        bad(f"{path}: {reason}")
    if len(unreadable) > LISTED:
        bad(f"and {len(unreadable) - LISTED} more")
    parts = ", ".join(f"{n:,} {kind}" for kind, n in kinds.most_common())
    print(f"{counted(count, 'file')} to describe, {decimal(n_bytes)}" + (f" ({parts})" if parts else ""))
    if sources.left_out:
        print(f"{counted(sources.left_out, 'other file')} left alone")
    if sources.not_entered:
        print(f"{counted(sources.not_entered, 'folder')} not entered" + ("" if sources.recursive else "; -r enters them"))
    if seconds is not None:
        print(f"about {_duration(seconds)} at the rate of the service's last jobs")
    return 1 if unreadable else 0


def _kind(place: bytes) -> str:
    """Name what a file is by its first bytes.

    Raises:
        OSError: it cannot be read, is empty, or is nothing that the service takes.
    """
    if not place:
        return "addresses"
    if not facts_of(place).st_size:
        raise OSError(0, "the file is empty")
    with SteadyFile(place) as file:
        head = file.read(HEAD_BYTES)
    if media_type := sniff(head):
        return media_type
    raise OSError(0, describe(head))


def _rate(url: str) -> float | None:
    """Take jobs a second from the service's last ones; None where it is away or has done too few."""
    try:
        with Client(url, retry_s=0, timeout_s=5) as client:
            jobs = client.request("GET", "/v1/jobs", params={"limit": 100})["data"]
    except ServiceError:
        return None
    ended = [job for job in jobs if job["status"] == "succeeded"]
    if len(ended) < ENOUGH:
        return None
    finished = [float(job["finished_at"]) for job in ended]
    return len(ended) / max(max(finished) - min(float(job["started_at"]) for job in ended), 0.1)


def _duration(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    return f"{hours} h {rest // 60:02} min" if hours else f"{max(1, rest // 60)} min"
