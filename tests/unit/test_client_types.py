"""What programs write against the client is typed, in the documents, too; tests/clients/README.md has pyright look at them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import ROOT, blocks, documents

PROGRAMS = ["examples/sightline_many.py", "tests/clients/typed.py"]
OPTIONS = ["--strict", "--config-file", "", "--cache-dir", ".mypy_cache/programs"]


@pytest.mark.timeout(180)
def test_programs_are_typed_and_a_wrong_one_is_found(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text((ROOT / PROGRAMS[1]).read_text().replace("one.error.code", "one.error.kode"))

    shown = [block for document in documents() for block in blocks(document, "python") if "sightline.client" in block]
    for n, program in enumerate(shown):
        (tmp_path / f"shown_{n}.py").write_text(program)

    command = [sys.executable, "-m", "mypy", *OPTIONS, *PROGRAMS, *map(str, tmp_path.glob("*.py"))]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert len(shown) == 6
    found = [line for line in checked.stdout.splitlines() if ": error:" in line]
    assert ["wrong.py" in line and "kode" in line for line in found] == [True], checked.stdout
