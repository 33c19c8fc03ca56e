"""All parts on one machine: the runner of batches is started again when it dies, any other part ends them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline import stack as stacks
from sightline.stack import Stack, StackFailed


def test_a_runner_of_batches_that_dies_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "STEADY_S", 0.0)
    stack = Stack(tmp_path)
    (tmp_path / "logs").mkdir()
    try:
        stack.spawn("redis", "sightline.embedded", str(stack.redis_port), str(tmp_path / "redis"))
        first = stack.spawn("batches", "api.batches.main")
        first.kill()
        first.wait()
        assert stack.check() == ["batches"]
        assert stack.processes["batches"].poll() is None
        assert stack.check() == []

        monkeypatch.setattr(stacks, "STEADY_S", 60.0)  # it dies again at once
        stack.processes["batches"].kill()
        stack.processes["batches"].wait()
        with pytest.raises(StackFailed, match="batches was killed by signal 9"):
            stack.check()
    finally:
        stack.stop()
