"""What a folder adds to the contract of every place, see tests/integration/test_storage.py."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from shared.blobs import Blobs
from shared.folder import AT_ONCE_BYTES


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "blobs"


async def test_files_are_deleted_and_those_gone_are_no_error(folder: Path) -> None:
    blobs = Blobs(str(folder))
    await blobs.put_bytes("inline/job_1-0", b"a")
    await blobs.put_bytes("inline/job_2-0", b"b")
    await blobs.put_bytes("batches/one/part", b"c")

    await blobs.delete("inline/job_1-0", "inline/job_9-0")

    assert files(folder) == {"inline/job_2-0", "batches/one/part"}
    await blobs.delete("inline/job_2-0", "batches/one/part")
    assert {name: os.listdir(folder / name) for name in os.listdir(folder)} == {"inline": [], "batches": []}  # noqa: PTH208


@pytest.mark.parametrize("name", ["../escape", "uploads/../../escape"])
async def test_nothing_outside_the_folder_is_read_or_deleted(name: str, folder: Path) -> None:
    blobs = Blobs(str(folder))
    (folder.parent / "escape").write_bytes(b"x")

    with pytest.raises(ValueError, match="path"):
        await blobs.get(name)
    with pytest.raises(ValueError, match="path"):
        await blobs.delete(name)
    assert (folder.parent / "escape").exists()


@pytest.mark.parametrize("name", ["../escape", "uploads/../../escape", "a\x00b"])
async def test_no_name_leads_out_of_the_folder(name: str, folder: Path) -> None:
    with pytest.raises(ValueError, match="path"):
        await Blobs(str(folder)).put_bytes(name, b"x")


async def test_a_name_that_looks_absolute_stays_inside(folder: Path) -> None:
    await Blobs(str(folder)).put_bytes("/etc/inside", b"x")

    assert files(folder) == {"etc/inside"}


async def test_the_loop_writes_small_files_and_threads_the_large_and_those_of_a_slow_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = Blobs(str(folder))

    async def is_at_once(name: str, data: bytes) -> bool:
        stored = asyncio.ensure_future(blobs.put_bytes(name, data))
        await asyncio.sleep(0)
        at_once = stored.done()
        await stored
        assert await blobs.get(name) == data
        return at_once

    monkeypatch.setattr("shared.folder.SLOW_S", 3600.0)
    assert [await is_at_once(f"a/{n}", b"x" * n) for n in (1, AT_ONCE_BYTES, AT_ONCE_BYTES + 1)] == [True, True, False]
    monkeypatch.setattr("shared.folder.SLOW_S", 0.0)
    assert [await is_at_once(f"b/{n}", b"x") for n in range(3)] == [True, False, False]


async def test_another_process_sees_what_this_one_stored(folder: Path) -> None:
    await Blobs(str(folder)).put_bytes("uploads/file-1", "图".encode())

    assert await Blobs(str(folder)).get("uploads/file-1") == "图".encode()
