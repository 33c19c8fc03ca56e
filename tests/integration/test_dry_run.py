"""``sightline describe --dry-run`` against a service with limits of its own."""

from __future__ import annotations

import json
from pathlib import Path

from shared.settings import Settings
from sightline.client import AsyncClient
from tests.integration.conftest import Worker
from tests.integration.served import served
from tests.integration.test_folder import colour, describe, rows_of
from tests.media import clip


async def test_dry_run_names_what_the_service_refuses_for_its_length_and_sends_nothing_else(
    settings: Settings, tmp_path: Path
) -> None:
    tree, long = tmp_path / "tree", bytes(300_000)
    tree.mkdir()
    (tree / "picture.png").write_bytes(colour(1) + long)
    (tree / "longer.png").write_bytes(colour(2) + long + long)
    (tree / "film.mp4").write_bytes(clip([0, 128]) + long)
    (tree / "longer.mp4").write_bytes(clip([0, 128]).ljust(605_600))
    (tree / "small.png").write_bytes(colour(3))
    own = settings.model_copy(update={"max_image_bytes": 200_000, "max_upload_bytes": 500_000})
    async with served(own) as url, Worker(own).running():
        looked = await describe(tree, "--dry-run", "--json", "--url", url)
        said = await describe(tree, "--dry-run", "--url", url)
        async with AsyncClient(url) as client:
            sent = [job.id async for job in client.jobs()] + [file.id async for file in client.files()]
        await describe(tree, "-o", tmp_path / "o.jsonl", "--url", url)
    alone = await describe(tree, "--dry-run", "--url", "http://127.0.0.1:9")

    told = {item["path"]: item["message"] for item in json.loads(looked.stdout)["unreadable"]}
    assert told == {
        path: f"{length} kB are more than the {most} kB that the service takes (SIGHTLINE_MAX_{kind}_BYTES)"
        for path, length, most, kind in (
            ("picture.png", "300.1", "200.0", "IMAGE"),
            ("longer.png", "600.1", "200.0", "IMAGE"),
            ("longer.mp4", "605.6", "500.0", "UPLOAD"),
        )
    }
    assert told.keys() == {path for path, row in rows_of(tmp_path / "o.jsonl").items() if row["error"]}
    assert (looked.returncode, sent) == (1, [])
    assert "longer.png: 600.1 kB are more than" in said.stderr.decode()
    assert (alone.returncode, alone.stdout.splitlines()[-1][:27]) == (0, b"the service was not reached")
