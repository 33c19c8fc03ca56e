"""What the GPU does at saturation: ``python -m bench.gpu.profile`` takes the engine alone apart, kernel by kernel.

The engine is given inputs that were rendered before, as for ``direct`` in :mod:`bench.gpu`, and torch's profiler looks on for a
few seconds in the middle. One JSON line comes last: for how much of that time the GPU was busy, and with what; and what the
engine's process did while the GPU had nothing to do, by the innermost call of its busiest thread.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import re
import tempfile
from collections import Counter, deque
from pathlib import Path
from typing import Any

import psutil

from bench.gpu import shape
from bench.gpu.cases import CASES
from bench.gpu.engines import Direct
from bench.gpu.figures import machine
from shared.settings import load_settings

STEADY_AFTER_S = 8.0
LOOK_S = 3.0
TOP = 12
#: Shorter than this, the GPU only goes from one kernel to the next.
GAP_US = 50
ON_GPU = {"kernel", "gpu_memcpy", "gpu_memset"}
CALLS = {"cpu_op", "cuda_runtime", "cuda_driver", "user_annotation"}
#: By what their names hold, in this order.
KINDS = {
    "attention": r"flash|fmha|attn|attention",  # FlashAttention's are called cutlass::device_kernel<flash::…>
    "matrix products": r"gemm|nvjet|cutlass|cublas|matmul",
    "copies": r"memcpy|memset|copy|cat",
    "sampling": r"softmax|topk|argmax|sampl|sort",
}


class Watched(Direct):
    """An engine that is kept full, and looked at in the middle."""

    def look(self, files: list[str], tokens: int) -> None:
        """Write a trace of a few seconds."""
        self.prepare(files)
        self._loop.run_until_complete(self._look(files, tokens))

    async def _look(self, files: list[str], tokens: int) -> None:
        running = asyncio.create_task(self._run(files, tokens, self._settings.in_flight))
        await asyncio.sleep(STEADY_AFTER_S)
        await self._engine.profile(LOOK_S)
        running.cancel()


def kind(name: str) -> str:
    """Say what sort of kernel this is."""
    return next((kind for kind, words in KINDS.items() if re.search(words, name, re.IGNORECASE)), "others, most of them fused")


def read(trace: Path) -> dict[str, Any]:
    """Sum up a trace of torch's profiler."""
    with gzip.open(trace) as file:
        events = [event for event in json.load(file)["traceEvents"] if event.get("ph") == "X"]
    kernels = sorted((event for event in events if event.get("cat") in ON_GPU), key=lambda event: event["ts"])
    scopes = deque(sorted((e for e in events if e.get("cat") == "gpu_user_annotation"), key=lambda event: event["ts"]))
    by_kind, by_scope, by_name = Counter[str](), Counter[str](), Counter[str]()
    busy_us, busy_until, inside = 0.0, 0.0, list[dict[str, Any]]()
    for event in kernels:
        begins, ends = event["ts"], event["ts"] + event["dur"]
        busy_us += max(0.0, ends - max(begins, busy_until))
        busy_until = max(busy_until, ends)
        by_kind[kind(event["name"])] += event["dur"]
        by_name[event["name"][:90]] += event["dur"]
        while scopes and scopes[0]["ts"] <= begins:
            inside.append(scopes.popleft())
        inside = [scope for scope in inside if begins < scope["ts"] + scope["dur"]]
        scope = min(inside, key=lambda scope: scope["dur"], default={"name": "none"})
        by_scope[re.sub(r"\d+", "N", scope["name"])] += event["dur"]
    window_us = busy_until - kernels[0]["ts"]
    total_us = sum(by_kind.values())

    def shares(sums: Counter[str], of_us: float = total_us) -> dict[str, float]:
        return {name: round(us / of_us, 3) for name, us in sums.most_common(TOP)}

    in_calls, in_scopes = gaps(kernels, [event for event in events if event.get("cat") in CALLS])
    return {
        "idle_in_calls": shares(in_calls, window_us),
        "idle_in_scopes": shares(in_scopes, window_us),
        "window_s": round(window_us / 1e6, 2),
        "busy": round(busy_us / window_us, 3),
        "kernels": len(kernels),
        "by_kind": shares(by_kind),
        "by_scope": shares(by_scope),
        "by_name": shares(by_name),
    }


def gaps(kernels: list[dict[str, Any]], calls: list[dict[str, Any]]) -> tuple[Counter[str], Counter[str]]:
    """Say what the process did while the GPU had nothing to do.

    Args:
        kernels: what ran on the GPU, in order.
        calls: what the process did.

    Returns:
        Microseconds of idle time by the innermost call in the middle of each gap, and by the innermost scope.
    """
    in_calls, in_scopes = Counter[str](), Counter[str]()
    busiest, _ = Counter(call["tid"] for call in calls).most_common(1)[0]
    own = deque(sorted((call for call in calls if call["tid"] == busiest), key=lambda call: call["ts"]))
    inside, busy_until = list[dict[str, Any]](), kernels[0]["ts"]
    for kernel in kernels:
        gap_us, middle = kernel["ts"] - busy_until, (kernel["ts"] + busy_until) / 2
        busy_until = max(busy_until, kernel["ts"] + kernel["dur"])
        if gap_us < GAP_US:
            continue
        while own and own[0]["ts"] <= middle:
            inside.append(own.popleft())
        inside = [call for call in inside if middle < call["ts"] + call["dur"]]
        scopes = [call for call in inside if call["cat"] == "user_annotation"]
        for counted, found in ((in_calls, inside), (in_scopes, scopes)):
            counted[min(found, key=lambda call: call["dur"], default={"name": "none"})["name"][:60]] += gap_us
    return in_calls, in_scopes


def main() -> None:
    """Profile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="1024-128", choices=[case.name for case in CASES])
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sightline-profile-"))
    case = next(case for case in CASES if case.name == arguments.case)
    profiler = {
        "profiler": "torch",
        "torch_profiler_dir": str(folder),
        "torch_profiler_with_stack": False,
        "ignore_frontend": True,
    }
    os.environ |= {
        "BENCH_ENGINE_ARGS": json.dumps({"profiler_config": profiler}),
        "SIGHTLINE_MODEL": str(shape.write(folder / "model")),
        "VLLM_CUSTOM_SCOPES_FOR_PROFILING": "1",
    }
    files = [str(path) for path in case.files(folder / "files")]
    Watched(load_settings()).look(files, case.tokens)
    (trace,) = folder.glob("*.pt.trace.json.gz")
    print(json.dumps({"machine": machine(), "case": case.name} | read(trace)), flush=True)
    for child in psutil.Process().children(recursive=True):
        child.kill()  # the engine would outlive this process, with all of the GPU's memory
    os._exit(0)


if __name__ == "__main__":
    main()
