"""The Lua scripts in ``scripts/``, as Redis gets them: a library of functions.

Redis makes a library's helpers once. A script is made anew for each call, with all that it uses, and Lua's collector then has
it to clear away: a job cost a quarter more, see bench/NOTES.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import resources

from shared.jobs import TRANSITIONS, Priority

_SCRIPTS = resources.files("shared.store") / "scripts"
_READERS = ("list_page", "select_jobs", "count_jobs", "queue_waits", "quotas", "usage")
#: Bounds of the histograms, s: with the 5 and 60 s by which a chat and a job are in time.
BUCKETS_S = (0.1, 0.5, 1, 2.5, 5, 15, 30, 60, 300, 600, 1800, 3600, 21_600, 86_400)
#: How long what a key uses in a day is kept: a quarter's bill.
USAGE_DAYS = 90
#: What is counted of it, in the order in which the numbers stand in Redis.
USED = ("jobs", "succeeded", "failed", "cancelled", "prompt_tokens", "vision_tokens", "output_tokens")
#: Globals of Lua's that are locals of the library from its first call on: they cost less so, 2 % of a job. While a library is
#: made, ``redis`` is the only one.
_BOUND = "redis, string, math, table, cjson, tonumber, type, ipairs, pairs, unpack, pcall, error, next"
_BIND = f"""local register = redis.register_function
local function globals() return {_BOUND} end
local {_BOUND}
local function bind() {_BOUND} = globals() end"""


@dataclass(frozen=True)
class Library:
    """All scripts as one library. Its name has a hash of its text: versions of this service share a Redis during an upgrade."""

    name: str
    text: str

    def function(self, script: str) -> str:
        """Give the name by which Redis calls a script."""
        return f"{self.name}_{script}"


@cache
def read_library(*, webhook_backlog: int) -> Library:
    """Read the scripts, with what they take from here and the parts of ``scripts/lib`` in front.

    A part names those that it needs in its first line, ``-- needs: queues, events``; ``base`` goes without saying.
    """
    names = sorted(file.name.removesuffix(".lua") for file in _SCRIPTS.iterdir() if file.name.endswith(".lua"))
    scripts = {name: (_SCRIPTS / f"{name}.lua").read_text() for name in names}
    parts = (_BIND, _facts(webhook_backlog), *_parts().values())
    name = f"sightline_{sha256(''.join((*parts, *scripts.values())).encode()).hexdigest()[:12]}"
    functions = (_function(f"{name}_{script}", _flags(script), text) for script, text in scripts.items())
    return Library(name, "\n".join((f"#!lua name={name}", *parts, *functions)))


def _function(name: str, flags: str, script: str) -> str:
    body = f"function(KEYS, ARGV) return run(KEYS[1], function()\n{script}\nend) end"
    return f"register{{function_name = '{name}', flags = {{{flags}}}, callback = {body}}}"


def _flags(script: str) -> str:
    """A Redis that is full refuses new jobs only: whatever ends, renews or clears away may run over its memory's limit.

    One that cannot write refuses what does not say that it only reads.
    """
    return {"submit": "", **dict.fromkeys(_READERS, "'no-writes'")}.get(script, "'allow-oom'")


def _facts(webhook_backlog: int) -> str:
    moves = ", ".join(
        f"{source} = {{{', '.join(f'{target} = true' for target in sorted(targets))}}}"
        for source, targets in TRANSITIONS.items()
    )
    classes, ended, used = (
        ", ".join(f"'{name}'" for name in names)
        for names in (Priority, [status for status, targets in TRANSITIONS.items() if not targets], USED)
    )
    is_class = ", ".join(f"{name} = true" for name in Priority)
    places = ", ".join(f"{name} = {n}" for n, name in enumerate(USED, 1))
    buckets = ", ".join(f"{1000 * bound:.0f}" for bound in BUCKETS_S)
    return (
        f"local MOVES, ENDED = {{{moves}}}, {{{ended}}}\n"
        f"local CLASSES, IS_CLASS = {{{classes}}}, {{{is_class}}} -- the most urgent first\n"
        f"local BUCKETS_MS, MAX_DUE, USAGE_DAYS = {{{buckets}}}, {webhook_backlog}, {USAGE_DAYS}\n"
        f"local USED, PLACES = {{{used}}}, {{{places}}}"
    )


def _parts() -> dict[str, str]:
    """Give the text of each part by its name, each after those that it needs."""
    parts: dict[str, str] = {}

    def add(name: str) -> None:
        text = (_SCRIPTS / "lib" / f"{name}.lua").read_text()
        line = text.partition("\n")[0]
        for needed in line.removeprefix("-- needs: ").split(", ") if line.startswith("-- needs: ") else ():
            add(needed)
        parts.setdefault(name, text)

    add("base")
    for file in sorted((_SCRIPTS / "lib").iterdir(), key=lambda file: file.name):
        add(file.name.removesuffix(".lua"))
    return parts
