"""The bundled model, asked through the worker's own decoder and both real engines."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from shared.settings import ROOT


@pytest.mark.timeout(600)
def test_both_engines_see_what_is_there_and_give_the_same_tokens():
    command = [sys.executable, "-m", "demo.evaluate", "--compare", "--n", "40", "--clips", "10", "--seed", "20261123"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["same_tokens"] >= 0.99
    assert all(share >= 0.95 for share in result["all_right"].values())
    assert all(share >= 0.90 for share in result["clips_right"].values())
