"""What a run would do: how many files, which cannot be read, how long it may take. Nothing is sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from rich.filesize import decimal

from shared.media_types import HEAD_BYTES, kind_of, sniff
from shared.unsupported_files import describe
from sightline.client import Client, ServiceError
from sightline.client.files import SteadyFile
from sightline.describe.sources import Sources, facts_of
from sightline.screen import bad, counted, print_json

LISTED = 20
#: A rate from fewer ended jobs says little.
ENOUGH = 10


def look(sources: Sources, url: str, *, as_json: bool) -> int:
    """Look at all files, tell of those that cannot be read or would be refused, and give the exit code."""
    kinds, unreadable, n_bytes = Counter[str](), list[tuple[str, str]](), 0
    limits, rate = _asked(url)
    for path, place, _ in sources.all():
        try:
            kinds[_kind(place, limits or {})] += 1
            n_bytes += facts_of(place).st_size if place else 0
        except OSError as error:
            unreadable.append((path, error.strerror or str(error)))
    unreadable += sources.unreadable
    count = sum(kinds.values())
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
    if limits is None:
        print("the service was not reached, so how long a file it takes and how fast it is are not known")
    if seconds is not None:
        print(f"about {_duration(seconds)} at the rate of the service's last jobs")
    return 1 if unreadable else 0


def _kind(place: bytes, limits: Mapping[str, int]) -> str:
    """Name what a file is by its first bytes.

    Raises:
        OSError: it cannot be read, is empty, or is nothing that the service takes, or longer.
    """
    if not place:
        return "addresses"
    n_bytes = facts_of(place).st_size
    if not n_bytes:
        raise OSError(0, "the file is empty")
    with SteadyFile(place) as file:
        head = file.read(HEAD_BYTES)
    media_type = sniff(head)
    if media_type is None:
        raise OSError(0, describe(head))
    for name in ("max_image_bytes", "max_upload_bytes")[kind_of(media_type) == "video" :]:
        if n_bytes > (most := limits.get(name, n_bytes)):
            is_more = f"{decimal(n_bytes)} are more than the {decimal(most)} that the service takes"
            raise OSError(0, f"{is_more} (SIGHTLINE_{name.upper()})")
    return media_type


def _asked(url: str) -> tuple[dict[str, int] | None, float | None]:
    """Ask the service how long files may be, None where it is away, and take jobs a second from its last ones."""
    try:
        with Client(url, retry_s=0, timeout_s=5) as client:
            limits: dict[str, int] = client.request("GET", "/").get("limits", {})
            return limits, _rate(client)
    except ServiceError:
        return None, None


def _rate(client: Client) -> float | None:
    """Give jobs a second; None where the service keeps that from us, or has done too few."""
    try:
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
