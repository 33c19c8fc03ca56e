"""How much memory the worker's container has, and what decoders and media may take: fewer decoders rather than killed ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.settings import Settings

#: What a decoding child may take beyond the file itself: a HEIC of 48 MP takes 230 MB, and 16 bytes for each pixel that
#: it is scaled to; the reference frames of 4K video take 400 MB, and those that are handed on 2 MB each.
PICTURE_MEMORY_BYTES = 240 * 2**20
VIDEO_MEMORY_BYTES = 768 * 2**20
BYTES_PER_SCALED_PX = 16
QWEN_IMAGE_MAX_PX = 16_384 * 28 * 28  #: the most that checkpoints of Qwen2-VL and Qwen2.5-VL scale a picture to
#: A child before its first file, with what it keeps for the next one.
CHILD_BYTES = 96 * 2**20
#: Below this hardly a picture can be decoded, so no container is taken for smaller.
LEAST_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Room:
    """The memory limit that holds for this process, and what is free below it, in bytes."""

    limit_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Plan:
    """How many decoders there are of each kind, what one may take for its work, and what media may take, in bytes."""

    decoders: int
    picture_bytes: int
    video_bytes: int
    media_bytes: int
    why_fewer: str = ""  #: in words, where a container allows fewer than the settings


def make_plan(settings: Settings, image_max_px: int, room: Room | None) -> Plan:
    """Fit decoders and media into a container.

    Args:
        settings: how many decoders there should be, and how long files may get.
        image_max_px: the most that a picture is scaled to.
        room: the container's; left out, there is no limit.
    """
    wanted = settings.decode_processes
    picture, video = PICTURE_MEMORY_BYTES + BYTES_PER_SCALED_PX * image_max_px, VIDEO_MEMORY_BYTES
    if room is None:
        return Plan(wanted, picture, video, settings.media_budget_bytes)
    media = max(LEAST_BYTES, min(settings.media_budget_bytes, room.free_bytes // 2))
    left = max(0, room.free_bytes - media)
    own_picture, own_video = CHILD_BYTES + settings.max_image_bytes, CHILD_BYTES + settings.max_media_bytes
    pair = own_picture + picture + own_video + video
    decoders = max(1, min(wanted, left // pair))
    share = min(1.0, left / pair)
    if share < 1:  # not even one of each: what it may take is less, so that large files are refused rather than killed
        picture = max(LEAST_BYTES, int(share * (own_picture + picture)) - own_picture)
        video = max(LEAST_BYTES, int(share * (own_video + video)) - own_video)
    why = f"{room.free_bytes >> 20} MiB are free of the container's {room.limit_bytes >> 20} MiB"
    if decoders < wanted:
        why += f", and a decoder for pictures and one for videos may take {pair >> 20} MiB"
    is_fewer = decoders < wanted or share < 1 or media < settings.media_budget_bytes
    return Plan(decoders, picture, video, media, why if is_fewer else "")


def container_memory(root: Path = Path("/")) -> Room | None:
    """Find the tightest memory limit of the cgroups that this process is in, of version 2 or 1; none where there is none.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    rooms = [room for folder in _folders(root) if (room := _room(folder))]
    return min(rooms, key=lambda room: room.free_bytes, default=None)


def _folders(root: Path) -> Iterator[Path]:
    """Give the folders of our groups, the innermost first; in a container its own stands for the root."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        names = [name for name in path.split("/") if name not in {"", ".."}]
        yield from (top.joinpath(*names[:n]) for n in range(len(names), -1, -1))


def _room(folder: Path) -> Room | None:
    for limit_file, used_file, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, used = _number(folder / limit_file), _number(folder / used_file)
        if limit is not None and used is not None and limit < _NO_LIMIT:
            return Room(limit, max(0, limit - used + min(used, _cached(folder, cache))))
    return None


_NO_LIMIT = 2**60  #: version 1 says it with a number a little below 2**63, version 2 with a word


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _cached(folder: Path, name: str) -> int:
    """Give the bytes of files in memory that the kernel drops before it kills."""
    try:
        words = dict(line.split(maxsplit=1) for line in (folder / "memory.stat").read_text().splitlines())
        return int(words.get(name, 0))
    except (OSError, ValueError):
        return 0
