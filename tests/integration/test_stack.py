"""All parts on one machine: a runner of batches or a sender is started again when it dies, any other part ends them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline import stack as stacks
from sightline.stack import Stack, StackFailed


@pytest.mark.parametrize(("name", "command"), [("batches", ("api.batches.main",)), ("webhooks", ("worker.main", "webhooks"))])
def test_a_runner_of_batches_or_a_sender_that_dies_is_started_again(
    name: str, command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks, "STEADY_S", 0.0)
    stack = Stack(tmp_path)
    (tmp_path / "logs").mkdir()
    try:
        stack.spawn("redis", "sightline.embedded", str(stack.redis_port), str(tmp_path / "redis"))
        first = stack.spawn(name, *command)
        first.kill()
        first.wait()
        assert stack.check() == [name]
        assert stack.processes[name].poll() is None
        assert stack.check() == []

        monkeypatch.setattr(stacks, "STEADY_S", 60.0)  # it dies again at once
        stack.processes[name].kill()
        stack.processes[name].wait()
        with pytest.raises(StackFailed, match=f"{name} was killed by signal 9"):
            stack.check()
    finally:
        stack.stop()
