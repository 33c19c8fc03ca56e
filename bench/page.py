"""The page in front of 10,000 jobs, while 200 events a second come in: how long it is busy at a stretch, and what it keeps.

``python -m bench.page [JOBS] [SECONDS]`` starts all parts with the tests' engine, has it end JOBS jobs, and opens the list in a
Chromium. While new jobs are submitted at a rate that makes 200 events a second, it scrolls to the end of the list, types into
the search, and looks on for SECONDS. It prints one JSON line: the longest tasks by the browser's own trace, rows and nodes in
the document, and the heap after a full collection, again and again. All of it shares the machine.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, CDPSession, Page

from sightline.stack import Stack
from tests.browser import chromium, visit
from tests.media import picture

JOBS, SECONDS = 10_000, 600
EVENTS_PER_S, EVENTS_PER_JOB = 200, 3  # queued, running, succeeded
AT_ONCE = 16
SAMPLE_S = 30.0
LONG_MS = 50


async def submit(url: str, n: int, *, per_s: float | None, stop: threading.Event) -> int:
    """Submit jobs about one uploaded picture, as fast as they are taken or at a steady rate; gives how many were taken."""
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as http:
        file = (await http.post("/v1/files", files={"file": ("a.png", picture())})).json()["id"]
        numbers, began, taken = iter(range(n)), time.monotonic(), 0

        async def some() -> None:
            nonlocal taken
            for number in numbers:
                if stop.is_set():
                    return
                if per_s:
                    await asyncio.sleep(max(0.0, number / per_s - (time.monotonic() - began)))
                body = {"prompt": f"picture {number}", "images": [file], "metadata": {"n": number}}
                taken += (await http.post("/v1/jobs", json=body)).is_success

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))
        return taken


def wait_for_all(url: str, n: int) -> None:
    """Wait until that many jobs have ended."""
    with httpx.Client(base_url=url, trust_env=False) as http:
        while http.get("/v1/queue").json()["succeeded"] < n:
            time.sleep(1)


@contextmanager
def traced(browser: Browser, page: Page, found: dict[str, Any], phase: str) -> Iterator[None]:
    """Have the browser trace its tasks during the block, and note how long the page's thread was busy at a stretch.

    A task's own time is what it computed; what passed meanwhile is longer where others want the cores, too.
    """
    browser.start_tracing(page=page, categories=["toplevel", "devtools.timeline", "__metadata"])
    yield
    events = json.loads(browser.stop_tracing())["traceEvents"]
    threads = {(one["pid"], one["tid"]) for one in events if one.get("args", {}).get("name") == "CrRendererMain"}
    tasks = [one for one in events if one["name"].endswith("RunTask") and (one["pid"], one["tid"]) in threads]
    own_ms = sorted(one.get("tdur", 0) / 1000 for one in tasks)
    passed_ms = sorted(one.get("dur", 0) / 1000 for one in tasks)
    found[phase] = {
        "tasks": len(tasks),
        "longest_own_ms": round(own_ms[-1], 1),
        "longest_passed_ms": round(passed_ms[-1], 1),
        "own_over_50_ms": sum(ms > LONG_MS for ms in own_ms),
    }


def weigh(page: Page, session: CDPSession) -> dict[str, float]:
    """Give the heap, MB, and the document's nodes, once all garbage is gone."""
    session.send("HeapProfiler.collectGarbage")
    metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    rows = page.locator(".job-row").count()
    return {"heap_mb": round(metrics["JSHeapUsedSize"] / 1e6, 1), "nodes": int(metrics["Nodes"]), "rows": rows}


def scroll_to_the_end(page: Page, n: int) -> None:
    """Turn the wheel until the last job is there."""
    body = page.locator(".rows .body")
    body.hover()
    while int(page.locator(".rows").get_attribute("aria-rowcount") or 0) < n:
        page.mouse.wheel(0, 1200)
        page.wait_for_timeout(16)


def measure(url: str, n: int, seconds: float) -> dict[str, Any]:
    """Open the list, use it, and look on."""
    with chromium() as browser, visit(browser, f"{url}/#/jobs") as page:
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        page.locator(".job-row").first.wait_for()
        found: dict[str, Any] = {}
        with traced(browser, page, found, "live"):
            page.wait_for_timeout(5000)
        with traced(browser, page, found, "scrolling"):
            scroll_to_the_end(page, n)
        found["scrolled"] = weigh(page, session)
        page.locator(".rows .body").evaluate("(body) => { body.scrollTop = 0; }")
        page.wait_for_timeout(1000)
        with traced(browser, page, found, "typing"):
            page.get_by_role("searchbox").press_sequentially("picture 77", delay=60)
            page.wait_for_timeout(1500)
        page.get_by_role("searchbox").fill("")
        until, samples = time.monotonic() + seconds, []
        while time.monotonic() < until:
            page.wait_for_timeout(min(SAMPLE_S, seconds) * 1000)
            samples.append(weigh(page, session))
        return found | {"looking_on": samples}


def main() -> None:
    """Run it."""
    n, seconds = (int(sys.argv[1]) if len(sys.argv) > 1 else JOBS), (float(sys.argv[2]) if len(sys.argv) > 2 else SECONDS)  # noqa: PLR2004
    settings = {"SIGHTLINE_ENGINE": "tests.double:DoubleEngine", "SIGHTLINE_DRAIN_S": "1"}
    with Stack(Path(tempfile.mkdtemp()), settings=settings) as stack:
        stack.wait_ready()
        asyncio.run(submit(stack.url, n, per_s=None, stop=(stop := threading.Event())))
        wait_for_all(stack.url, n)
        print(f"{n} jobs are there", file=sys.stderr)
        rate = EVENTS_PER_S / EVENTS_PER_JOB
        running = threading.Thread(target=lambda: asyncio.run(submit(stack.url, 10**9, per_s=rate, stop=stop)))
        running.start()
        try:
            print(json.dumps(measure(stack.url, n, seconds)))
        finally:
            stop.set()
            running.join()


if __name__ == "__main__":
    main()
