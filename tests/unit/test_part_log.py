"""What is read out of a part's log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sightline.part_log import open_log


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "it wrote nothing to its log"),
        (["Traceback (most recent call last):", '  File "x"', "OSError: no space left", ""], "OSError: no space left"),
        ([{"event": "worker.failed", "level": "error", "error": "vLLM\n could not load"}, {"event": "bye", "level": "info"}],
         "vLLM could not load"),
        ([{"event": "[Errno 98] address in use", "level": "error"}], "[Errno 98] address in use"),
        ([{"event": "left", "level": "info"}], "left"),
        (["5", "[1]", "{"], "{"),
    ],
)  # fmt: skip
def test_the_reason_is_one_sentence_of_this_run(tmp_path: Path, lines: list[object], reason: str) -> None:
    path = tmp_path / "logs" / "part.log"
    path.parent.mkdir()
    path.write_text('{"event": "old", "level": "error", "error": "of a run before"}\n')

    log = open_log(path)
    with path.open("a") as file:
        file.writelines(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)

    assert log.reason() == reason
    assert log.obituary("part", 1) == f"part ended with exit code 1: {reason} (its log: {path})"
    assert log.obituary("part", -9) == f"part was killed by signal 9 (its log: {path})"


def test_a_worker_that_starts_says_what_it_does(tmp_path: Path) -> None:
    log, said = open_log(tmp_path / "new" / "worker.log"), []
    for event in ("gpu.claimed", "engine.chosen", "engine.loading", "engine.warming_up", "engine.ready"):
        with log.path.open("a") as file:
            file.write(json.dumps({"event": event}) + "\n")
        said.append(log.doing())

    assert said == ["starting the worker", "starting the engine", "loading the model", "warming up", "starting the decoders"]
