"""``sightline status``: gateway, queue, workers and GPUs in one view."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console

from sightline.client import Client, ServiceError
from sightline.screen import print_json

EVERY_S = 2.0
_CLEAR = "\x1b[H\x1b[J"


def show(url: str, *, watch: bool, as_json: bool) -> int:
    """Print how the service is, again and again where that is wanted, and give the exit code: 0 where a job would run."""
    console = Console(highlight=False, emoji=False, soft_wrap=True, markup=False)
    with Client(url, retry_s=0, timeout_s=10) as client:
        while True:
            try:
                facts = look(client)
            except ServiceError as error:
                if not watch:
                    raise
                facts = {"url": client.url, "ready": False, "message": str(error), "warnings": [], "queue": {}, "workers": []}
            if as_json:
                print_json(facts)
            else:
                text = "\n".join(lines(facts))
                console.print((_CLEAR if watch and console.is_terminal else "") + text)
            if not watch:
                return 0 if facts["ready"] else 1
            time.sleep(EVERY_S)


def look(client: Client) -> dict[str, Any]:
    """Ask for all that the view shows.

    Raises:
        ServiceError: nothing answers, or a key is needed.
    """
    facts: dict[str, Any] = {"url": client.url, "ready": True, "message": "ready", "warnings": []}
    try:
        facts["warnings"] = client.request("GET", "/readyz").get("warnings", [])
    except ServiceError as error:
        if error.is_lost:
            raise
        facts |= {"ready": False, "message": error.message}
    facts["queue"] = client.request("GET", "/v1/queue")
    facts["workers"] = client.request("GET", "/v1/workers")["data"]
    facts["models"] = client.models()
    return facts


def lines(facts: dict[str, Any]) -> list[str]:
    """Write the view."""
    said = [f"gateway  {facts['url']}  {'✓' if facts['ready'] else '✗'} {facts['message']}"]
    said += [f"         ! {warning}" for warning in facts["warnings"]]
    if facts.get("models"):
        said.append(f"models   {', '.join(facts['models'])}")
    if queue := facts["queue"]:
        said.append("queue    " + ", ".join(f"{queue[state]:,} {state}" for state in ("queued", "running") if state in queue))
        ended = [f"{queue[state]:,} {state}" for state in ("succeeded", "failed", "cancelled") if state in queue]
        if ended:
            said.append("ended    " + ", ".join(ended))
    if not facts["workers"]:
        said.append("workers  none")
    for worker in facts["workers"]:
        engine = worker.get("engine") or {}
        gpus = f"{worker.get('gpus') or 'no'} GPU{'' if worker.get('gpus') == 1 else 's'}"
        busy = f"{worker.get('jobs_in_flight', 0)} of {worker.get('places', '?')} jobs"
        said.append(f"worker   {worker['id']}  {worker['phase']}  {engine.get('name')} {engine.get('version')}  {gpus}  {busy}")
    return said
