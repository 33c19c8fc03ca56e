"""The bundled model, asked through the worker's own decoder and both real engines."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from shared.settings import ROOT

pytestmark = pytest.mark.timeout(600)


def evaluate(*args: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "demo.evaluate", *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_both_engines_give_the_same_tokens():
    result = evaluate("--compare", "--n", "20", "--clips", "4", "--seed", "20261123")
    assert result["same_tokens"] >= 0.99


def test_the_demo_model_sees_what_is_there():
    result = evaluate("--engine", "transformers", "--n", "40", "--clips", "10", "--seed", "99")
    assert all(share >= 0.95 for share in result["all_right"].values())
    assert all(share >= 0.90 for share in result["clips_right"].values())
