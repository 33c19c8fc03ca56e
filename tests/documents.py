"""The documents of this repository, and the commands that they show: where each is run, or why it is not."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: What was done, when and with which figures: records, whose commands are those of a day.
RECORDS = ("CHANGELOG.md", "bench/", "demo/")
_FENCE = re.compile(r"^[ ]*```(\w*)\n(.*?)^[ ]*```", flags=re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:[A-Z_]+=\S+ )*(?:sightline|make|docker|python3?|pip|curl|kubectl|systemctl|redis-cli) [^`\n]+)`")

#: Beginnings of commands in blocks that tests/acceptance/test_shown_commands.py runs as they stand, on a service of its own.
RUN = r"sightline (describe|compare) |(\w+=\$\()?curl |python examples/"
#: Beginnings of commands that it does not run, and what does instead.
ELSEWHERE = {
    r"make demo\b": "tests/acceptance/test_main_job.py",
    r"(\w+=\S+ )*sightline up\b": "tests/integration/test_up.py",
    r"sightline models (pull|list)\b": "tests/unit/test_models.py",
    r"sightline listen --port\b": "tests/integration/test_listen.py",
    r"sightline listen --forward-to\b": "tests/integration/test_commands.py",
    r"sightline worker\b": "tests/integration/test_worker_pool.py",
    r"sightline keys\b": "tests/integration/test_keys.py",
    r"sightline (status|jobs)\b": "tests/integration/test_commands.py",
    r"sightline compare\b": "tests/unit/test_compare.py",
    r"sightline doctor\b": "tests/unit/test_doctor.py",
    r"sightline secret\b": "tests/unit/test_signing.py",
    r"sightline describe\b": "tests/integration/test_folder.py",
    r"python -m (api\.main|api\.batches\.main|worker\.main)\b": "tests/integration/test_stack.py",
    r"python (-m )?examples[/.]": "tests/acceptance/test_examples.py",
    r"(rsync -a|redis-cli CONFIG SET) ": "tests/chaos/backup.py",
    r"kubectl apply -k ": "tests/unit/test_kubernetes.py",
}
#: The same of commands that nothing here runs, and why.
NOT_RUN = {
    r"make (?!demo)": "it is what runs this, or installs",
    r"git clone ": "the address is the reader's",
    r"(source|export|cd) (?!tests)": "it sets up the shell of whoever types it",
    r"docker ": "containers are built where there is a Docker",
    r"(useradd|install -Dm600|cp deploy/systemd/\S+|systemctl) ": "it changes the machine",
    r"redis-cli --scan .* UNLINK": "it deletes all data",
    r"(pip|phoenix) ": "it installs, or looks at what is installed",
    r"(python3 -m venv|/tmp/clients|\(?cd |cp examples|java )": "a trial with packages of its own",
    r"python -m (tests|bench|demo)\.": "trials and measurements, which take long",
    r"curl -d": "an option, no command",
    r"SIGHTLINE_URL=": "it asks another machine",
}


@cache
def documents() -> list[Path]:
    """Give all that git has or would have."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def named(document: Path) -> str:
    return str(document.relative_to(ROOT))


def prose(document: Path) -> str:
    """Give a document without its blocks of code."""
    return _FENCE.sub("", document.read_text())


def blocks(document: Path, language: str) -> list[str]:
    """Give the blocks of code in a language."""
    return [code for found, code in _FENCE.findall(document.read_text()) if found == language]


def commands_in(block: str) -> list[str]:
    """Take a block of shell apart into commands, without comments; a command may go over lines."""
    joined = block.replace("\\\n", " ")
    bare = [re.sub(r"(^|\s)#.*$", "", line).strip() for line in joined.splitlines()]
    return [" ".join(line.split()) for line in bare if line]


def inline_commands(document: Path) -> list[str]:
    """Give the commands within sentences."""
    return _INLINE.findall(prose(document))


def is_run(command: str) -> bool:
    """Say whether a command in a block is run as it stands."""
    return re.match(RUN, command) is not None


def fate(command: str) -> str | None:
    """Say who runs a command, or why nobody does; None where that is not said."""
    told = [what for beginning, what in (ELSEWHERE | NOT_RUN).items() if re.match(beginning, command)]
    return told[0] if told else None
