"""The report as a picture: bars of throughput by case, and how full the engine's batch was.

``python -m bench.gpu.plot PICTURE REPORT…`` draws several reports into one picture; ``fp8/report.json=, FP8`` adds something to
the names of its ways.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

COLOURS = {
    "script": "#999999",
    "task": "#bbbbbb",
    "set": "#8fb8de",
    "direct": "#333333",
    "serve": "#e0a030",
    "sightline": "#1b7f5c",
    "webhooks": "#7cc4a4",
    "serve, FP8": "#f2d6a2",
    "sightline, FP8": "#7cc4a4",
}


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Draw the rows of a report; nothing where matplotlib is not installed.

    Args:
        rows: as ``report.json`` has them.
        file: a PNG.
    """
    try:
        import matplotlib as mpl  # type: ignore[import-not-found]  # asked for by no part; see the module's head
    except ImportError:
        return
    mpl.use("agg")
    from matplotlib import pyplot as plt

    loaded = [row for row in rows if not row["case"].startswith("unloaded")]
    cases, ways = list(dict.fromkeys(row["case"] for row in loaded)), list(dict.fromkeys(row["way"] for row in loaded))
    figure, (bars, lines) = plt.subplots(1, 2, figsize=(15, 5), width_ratios=(3, 2), layout="constrained")
    width = 0.8 / len(ways)
    for n, way in enumerate(ways):
        rounds = {case: [r["whole_per_s"] for r in loaded if (r["case"], r["way"]) == (case, way)] for case in cases}
        places = [x + n * width for x, case in enumerate(cases) if rounds[case]]
        ran = [own for own in rounds.values() if own]
        means = [mean(own) for own in ran]
        spread = [[mean(own) - min(own) for own in ran], [max(own) - mean(own) for own in ran]]
        bars.bar(places, means, width, yerr=spread, label=way, color=COLOURS.get(way))
    bars.set_xticks([x + 0.4 - width / 2 for x in range(len(cases))], cases, rotation=30)
    bars.set_ylabel("jobs a second")
    bars.set_title("from the first request to the last answer: mean of the rounds, and each (size of the picture - tokens)")
    bars.legend(frameon=False)
    first_round = {row["case"]: row["running"] for row in reversed(loaded) if row["way"] == "sightline"}
    for case, running in first_round.items():
        lines.plot([0.5 * n for n in range(len(running))], running, label=case)
    lines.set_xlabel("seconds")
    lines.set_title("requests in the engine's batch, Sightline")
    lines.legend(frameon=False, fontsize="small")
    for axes in (bars, lines):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)


def main() -> None:
    """Draw reports together, case by case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("reports", nargs="+", metavar="REPORT[=SUFFIX]")
    arguments = parser.parse_args()
    rows = list[dict[str, Any]]()
    for report in arguments.reports:
        file, _, suffix = report.partition("=")
        rows += [row | {"way": row["way"] + suffix} for row in json.loads(Path(file).read_text())["rows"]]
    draw(rows, arguments.picture)


if __name__ == "__main__":
    main()
