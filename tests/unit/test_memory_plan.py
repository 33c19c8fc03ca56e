"""A container's memory: where its limit stands, and how many decoders fit below it."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.settings import Settings
from worker.media.memory_plan import CHILD_BYTES, Room, container_memory, make_plan

GIB, MIB = 2**30, 2**20
NO_LIMIT = "9223372036854771712"


def tree(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """Lay out a proc and a sys."""
    for name, text in {"proc/self/cgroup": cgroup, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


V1, V2 = "memory.limit_in_bytes", "memory.max"


@pytest.mark.parametrize(
    ("cgroup", "files", "room"),
    [
        ("0::/", {V2: "4000", "memory.current": "1500", "memory.stat": "anon 7\ninactive_file 500"}, Room(4000, 3000)),
        ("0::/", {V2: "max", "memory.current": "1500"}, None),
        ("0::/", {}, None),  # the root of a machine has no such file
        (  # a slice around it is tighter
            "0::/system.slice/worker.service",
            {
                "system.slice/worker.service/memory.max": "9000",
                "system.slice/worker.service/memory.current": "1000",
                "system.slice/memory.max": "5000",
                "system.slice/memory.current": "4000",
            },
            Room(5000, 1000),
        ),
        ("0::/../../elsewhere", {V2: "4000", "memory.current": "0"}, Room(4000, 4000)),
        ("5:cpu:/a\n4:memory:/docker/1f\n0::/", {f"memory/{V1}": "70", "memory/memory.usage_in_bytes": "20"}, Room(70, 50)),
        (
            "9:cpu,memory:/docker/1f",
            {
                f"memory/docker/1f/{V1}": "70",
                "memory/docker/1f/memory.usage_in_bytes": "60",
                "memory/docker/1f/memory.stat": "inactive_file 1\ntotal_inactive_file 30",
                f"memory/{V1}": NO_LIMIT,
                "memory/memory.usage_in_bytes": "500",
            },
            Room(70, 40),
        ),
        ("4:memory:/", {f"memory/{V1}": NO_LIMIT, "memory/memory.usage_in_bytes": "500"}, None),
        ("0::/", {V2: "100", "memory.current": "900"}, Room(100, 0)),
        ("nonsense", {V2: "100", "memory.current": "?"}, None),
    ],
)
def test_the_tightest_limit_is_found(cgroup: str, files: dict[str, str], room: Room | None, tmp_path: Path) -> None:
    assert container_memory(tree(tmp_path, cgroup, files)) == room


def test_a_machine_without_cgroups_has_no_limit(tmp_path: Path) -> None:
    assert container_memory(tmp_path) is None


def test_decoders_and_media_fit_into_the_container() -> None:
    """Whatever the container, all decoders at their worst and all media stay below what is free."""
    settings = Settings(decode_processes=8)
    free = make_plan(settings, 12_845_056, None)
    assert (free.decoders, free.media_bytes, free.why_fewer) == (8, settings.media_budget_bytes, "")
    decoders = list[int]()
    for n_mib in (256, 512, 1024, 2048, 4096, 8192, 16_384, 65_536):
        room = Room(n_mib * MIB + GIB, n_mib * MIB)
        plan = make_plan(settings, 12_845_056, room)
        files = settings.max_image_bytes + settings.max_media_bytes
        worst = plan.decoders * (plan.picture_bytes + plan.video_bytes + 2 * CHILD_BYTES + files) + plan.media_bytes
        assert worst <= room.free_bytes or (plan.decoders == 1 and n_mib < 2048), n_mib  # something has to be there
        assert (plan.picture_bytes, plan.video_bytes) <= (free.picture_bytes, free.video_bytes)
        assert bool(plan.why_fewer) == (n_mib < 65_536)
        decoders.append(plan.decoders)

    assert decoders == [1, 1, 1, 1, 1, 2, 7, 8]
    assert "8192 MiB are free of the container's 9216 MiB" in make_plan(settings, 10**6, Room(9 * GIB, 8 * GIB)).why_fewer
