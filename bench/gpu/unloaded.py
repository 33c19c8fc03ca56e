"""One job at a time: what a picture takes by each way, in turn, and what a service adds to the engine alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.gpu.cases import Case
from bench.gpu.figures import percentiles
from bench.gpu.ways import Ran

TOKENS = 16
#: Jobs whose stages are told one by one: those to which most was added.
SLOWEST = 6
#: The first of each way meet what is not warm yet, such as connections.
UNCOUNTED = 5

Ask = Callable[[Case, list[Path]], Ran]


def measure(size_px: tuple[int, int], asks: dict[str, Ask], folder: Path, pairs: int) -> list[dict[str, Any]]:
    """Ask each way for the same picture, then for the next one.

    No meter runs beside it: nvidia-smi can hold up a job for longer than a service does.

    Args:
        size_px: of the pictures.
        asks: the ways; with ``direct`` among them the others' rows say what they add to it.
        folder: for the pictures.
        pairs: pictures that count.

    Returns:
        A row of the report for each way.
    """
    case = Case(f"unloaded-{size_px[0]}", (size_px,), TOKENS, UNCOUNTED + pairs)
    ran: dict[str, list[Ran]] = {way: [] for way in asks}
    for file in case.files(folder):
        for way, ask in asks.items():
            ran[way].append(ask(case, [file]))
    counted = {way: each[UNCOUNTED:] for way, each in ran.items()}
    engine_ms = [_latency_ms(one) for one in counted.get("direct", [])]
    return [_row(case, way, each, engine_ms if way != "direct" else []) for way, each in counted.items()]


def _row(case: Case, way: str, each: list[Ran], engine_ms: list[float]) -> dict[str, Any]:
    took_ms = [_latency_ms(one) for one in each]
    row: dict[str, Any] = {
        "case": case.name,
        "way": way,
        "jobs": len(each),
        "short": sum(tokens != case.tokens for one in each for _, _, tokens in one.done),
        "latency_ms": percentiles(took_ms),
        "stages_ms": {stage: percentiles(one.stages_ms[stage] for one in each) for stage in each[0].stages_ms},
    }
    if not engine_ms:
        return row
    added_ms = [took - engine for took, engine in zip(took_ms, engine_ms, strict=True)]
    slowest = sorted(range(len(each)), key=lambda n: -added_ms[n])[:SLOWEST]
    return row | {
        "added_ms": percentiles(added_ms),
        "slowest": [{"n": n, "engine": round(engine_ms[n]), "added": round(added_ms[n]), **each[n].stages_ms} for n in slowest],
        "all_added_ms": [round(ms, 1) for ms in sorted(added_ms)],
    }


def _latency_ms(one: Ran) -> float:
    ((began_s, ended_s, _),) = one.done
    return 1000 * (ended_s - began_s)
