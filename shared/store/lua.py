"""The Lua scripts in ``scripts/``, as Redis gets them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from shared.jobs import TRANSITIONS, Priority

_SCRIPTS = resources.files("shared.store") / "scripts"
_READERS = ("page", "select", "count", "oldest", "quotas", "usage")
#: Bounds of the histograms, s: with the 5 and 60 s by which a chat and a job are in time.
BUCKETS_S = (0.1, 0.5, 1, 2.5, 5, 15, 30, 60, 300, 600, 1800, 3600, 21_600, 86_400)
#: How long what a key uses in a day is kept: a quarter's bill.
USAGE_DAYS = 90


def read_script(name: str, *, webhook_backlog: int) -> str:
    """Give a script as Redis runs it: with what it takes from here and the parts that it needs in front.

    A script or part names the parts of ``scripts/lib`` that it needs in its first line, ``-- needs: queues, events``; ``base``
    goes without saying. What a script does not name costs it nothing: Lua makes each helper anew for every call.

    A Redis that is full refuses new jobs only: whatever ends, renews or clears away may run over its memory's limit. One that
    cannot write refuses what does not say that it only reads.
    """
    first = {"submit": "#!lua", **dict.fromkeys(_READERS, "#!lua flags=no-writes")}.get(name, "#!lua flags=allow-oom")
    moves = ", ".join(
        f"{source} = {{{', '.join(f'{target} = true' for target in sorted(targets))}}}"
        for source, targets in TRANSITIONS.items()
    )
    classes = ", ".join(f"'{priority}'" for priority in Priority)
    buckets = ", ".join(f"{1000 * bound:.0f}" for bound in BUCKETS_S)
    facts = (
        f"local BUCKETS_MS = {{{buckets}}}\n"
        f"local MOVES = {{{moves}}}\nlocal CLASSES = {{{classes}}} -- the most urgent first\n"
        f"local MAX_DUE = {webhook_backlog}\nlocal USAGE_DAYS = {USAGE_DAYS}"
    )
    script = (_SCRIPTS / f"{name}.lua").read_text()
    return "\n".join((first, facts, *_parts(script, ["base"]).values(), script))


def _parts(source: str, needed: Sequence[str] = ()) -> dict[str, str]:
    """Give the parts that a script needs, by name, each after those that it needs itself."""
    parts: dict[str, str] = {}
    line = source.partition("\n")[0]
    named = line.removeprefix("-- needs: ").split(", ") if line.startswith("-- needs: ") else []
    for name in (*needed, *named):
        text = (_SCRIPTS / "lib" / f"{name}.lua").read_text()
        for inner, inner_text in (*_parts(text).items(), (name, text)):
            parts.setdefault(inner, inner_text)
    return parts
