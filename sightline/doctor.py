"""Say what of Sightline works on this machine, and how to mend the rest, one line per part.

What can be told from metadata is; torch is imported in a process of its own, so that a broken installation can neither crash
nor hang the doctor. Every check stands alone: whatever goes wrong in one becomes its line.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from sightline import checks
from sightline.checks import Check
from sightline.probe import Probe, torch_probe

if TYPE_CHECKING:
    from shared.settings import Settings

__all__ = ["Check", "check", "report"]


def check(settings: Settings) -> list[Check]:
    """Look at every part.

    Args:
        settings: where Redis and the weights are, and which engine and model are wanted.

    Returns:
        One line per part, always the same parts in the same order.
    """
    found = torch_probe() if checks.version_of("torch") else Probe()
    parts: dict[str, Callable[[], Check]] = {
        "python": checks.python_line,
        "torch": lambda: checks.torch_line(found),
        "gpu": lambda: checks.gpu_line(settings, found),
        "torchvision": lambda: checks.torchvision_line(found),
        "transformers": lambda: checks.package_line("transformers"),
        "accelerate": lambda: checks.package_line("accelerate"),
        "qwen-vl-utils": lambda: checks.package_line("qwen-vl-utils"),
        "modelscope": checks.modelscope_line,
        "flash-attn": lambda: checks.flash_attention_line(settings),
        "vllm": lambda: checks.vllm_line(settings, found),
        "compiler": lambda: checks.compiler_line(settings),
        "redis": lambda: checks.redis_line(settings),
        "weights": lambda: checks.weights_line(settings),
    }
    return [_alone(name, part) for name, part in parts.items()]


def report(lines: list[Check], as_json: bool) -> int:  # noqa: FBT001 - the command line's own switch
    """Print the lines to standard output.

    Args:
        lines: what :func:`check` found.
        as_json: print one JSON document instead of lines for people.

    Returns:
        The exit code: 1 when a required part does not work.
    """
    failed = [line for line in lines if not line.ok and line.level == "required"]
    if as_json:
        document = {"ok": not failed, "checks": [asdict(line) for line in lines]}
        print(json.dumps(document, ensure_ascii=sys.stdout.encoding.lower() != "utf-8", indent=2))
        return 1 if failed else 0
    console = Console(soft_wrap=True, highlight=False)
    plain = not console.encoding.lower().startswith("utf")
    if plain and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    for line in lines:
        console.print(_text(line, plain=plain))
    count = f"{len(failed)} of {len(lines)} parts need mending."
    console.print(count if failed else "Everything that is required works.")
    return 1 if failed else 0


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
