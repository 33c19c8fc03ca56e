"""``python -m tests.chaos.poison``: one picture that kills the real vLLM engine, among 32 jobs, on a machine without a GPU.

The engine runs in a process of its own, as on a GPU; whenever the one poisonous picture reaches it, that process is killed.
The last line is JSON; the exit code says whether the others succeeded, the one failed, and the engine restarts were few.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from demo.scenes import scene
from shared.sampling_params import Sampling
from sightline.client import Client
from sightline.stack import Stack
from tests.media import data_url, picture
from worker.engines.base import Conversation, Generation, Tools
from worker.engines.vllm import VllmEngine

N_JOBS = 32
MAX_RESTARTS = 6  #: the first death, and five by which the culprit is found
SEED = 999_000
POISON = (250, 0, 250)  #: no scene has this colour in its corner


class PoisonedVllm(VllmEngine):
    """vLLM as it is, but for one colour."""

    async def generate(
        self,
        conversation: Conversation,
        sampling: Sampling,
        *,
        request_id: str,
        urgency: int = 0,
        on_text: Callable[[str], None] | None = None,
        tools: Tools = (),
    ) -> Generation:
        """Kill the engine's process when the poison is in the picture, then go on as if nothing had been."""
        parts = [part for message in conversation for part in message["content"]]
        if any(tuple(part["image"].rgb[:3]) == POISON for part in parts if part["type"] == "image"):
            for process in psutil.Process().children(recursive=True):
                if "EngineCore" in " ".join((process.name(), *process.cmdline())):
                    logging.getLogger(__name__).warning("killing the engine's process")
                    process.kill()
        return await super().generate(
            conversation, sampling, request_id=request_id, urgency=urgency, on_text=on_text, tools=tools
        )


def measure(stack: Stack) -> dict[str, Any]:
    """Submit all jobs at once and see them to their ends; gives the figures."""
    poison = N_JOBS // 2
    scenes = [scene(SEED + n) for n in range(N_JOBS)]
    files = [picture(POISON, (224, 224)) if n == poison else scenes[n].png() for n in range(N_JOBS)]
    with Client(stack.url) as client, ThreadPoolExecutor(N_JOBS) as pool:
        began = time.monotonic()
        bodies = [{"prompt": "Describe this image.", "images": [data_url(file)]} for file in files]
        ids = list(pool.map(lambda body: client.submit(body)["id"], bodies))
        jobs = list(pool.map(lambda job_id: client.wait(job_id, timeout_s=300), ids))
        seconds = time.monotonic() - began
        time.sleep(1.5)  # the worker's next notice
        (worker,) = client.request("GET", "/v1/workers")["data"]
    right = [job["status"] == "succeeded" and job["output"]["text"] == scenes[n].caption("en") for n, job in enumerate(jobs)]
    return {
        "jobs": N_JOBS,
        "succeeded": sum(job["status"] == "succeeded" for job in jobs),
        "right": sum(right),
        "poison": jobs[poison]["status"] + ": " + str((jobs[poison]["error"] or {}).get("code")),
        "engine": worker["engine"],
        "engine_restarts": worker["engine_restarts"],
        "seconds": round(seconds, 1),
    }


def main() -> int:
    """Start the service, measure, stop it; gives the exit code."""
    folder = Path(tempfile.mkdtemp(prefix="sightline-poison-"))
    settings = {
        "SIGHTLINE_MODEL": "demo",
        "SIGHTLINE_ENGINE": "tests.chaos.poison:PoisonedVllm",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",  # small machines would run the engine inside the worker
    }
    began = time.monotonic()
    with Stack(folder, settings=settings) as stack:
        stack.wait_ready()
        sys.stderr.write(f"ready after {time.monotonic() - began:.0f} s; logs in {folder / 'logs'}\n")
        figures = measure(stack)
    sys.stdout.write(json.dumps(figures) + "\n")
    good = figures["right"] == N_JOBS - 1 and figures["poison"] == "failed: poison_input"
    return 0 if good and figures["engine_restarts"] <= MAX_RESTARTS else 1


if __name__ == "__main__":
    sys.exit(main())
