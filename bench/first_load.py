"""How soon the page is of use, and what it weighs: ``python -m bench.first_load [ROUNDS]``.

All parts of the demo run on this machine, with jobs that have ended. A Chromium opens Try and Jobs, with an empty cache (cold)
and once more (warm), at the machine itself and as if 40 ms and 10 Mbit/s lay between. Counted from the navigation's start, in
milliseconds: the first paint with content; until Try takes a file, or Jobs shows rows; until the bar says how the service is.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import Browser, Page

from demo.scenes import scene
from sightline.client import Client
from sightline.stack import Stack
from tests.browser import chromium

ROUNDS, JOBS, SEED = 10, 120, 610_000
#: What makes a place of use, by the places' addresses.
USEFUL = {"": ".drop", "jobs": ".job-row"}
FAR = {"offline": False, "latency": 40, "downloadThroughput": 1_250_000, "uploadThroughput": 1_250_000}
#: Notes when what was waited for is in the document: whoever asks for it from outside finds it later.
WATCH = """(() => {
  const seen = {}, wanted = ['.drop', '.job-row', '.health.good'];
  window.seenAt = seen;
  new MutationObserver(() => {
    for (const what of wanted) if (!(what in seen) && document.querySelector(what)) seen[what] = performance.now();
  }).observe(document, {subtree: true, childList: true, attributes: true});
})()"""
MEASURED = """useful => {
  const loads = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')];
  const own = loads.filter((one) => !one.name.includes('/v1/'));
  return {
    paint_ms: performance.getEntriesByName('first-contentful-paint')[0].startTime,
    useful_ms: seenAt[useful],
    told_ms: seenAt['.health.good'],
    requests: own.length,
    kb: own.reduce((sum, one) => sum + one.transferSize, 0) / 1000,
  };
}"""


def opened(page: Page, url: str, useful: str) -> dict[str, float]:
    """Open a place, and measure."""
    page.goto("about:blank")
    page.goto(url)
    for awaited in (useful, ".health.good"):
        page.locator(awaited).first.wait_for()
    page.wait_for_timeout(300)
    found: dict[str, float] = page.evaluate(MEASURED, useful)
    return found


def rounds(browser: Browser, url: str, useful: str, n: int, *, far: bool) -> Iterator[tuple[str, dict[str, float]]]:
    """Open a place again and again, each time cold and then warm."""
    for _ in range(n):
        with browser.new_context() as context:
            page = context.new_page()
            page.add_init_script(WATCH)
            if far:
                session = context.new_cdp_session(page)
                session.send("Network.enable")
                session.send("Network.emulateNetworkConditions", FAR)
            yield "cold", opened(page, url, useful)
            yield "warm", opened(page, url, useful)


def measure(url: str, n: int) -> list[dict[str, Any]]:
    """Measure all of it; gives the median of each figure, and the slowest until it was of use."""
    table = []
    with chromium() as browser:
        for far in (False, True):
            for place, useful in USEFUL.items():
                found = list(rounds(browser, f"{url}/#/{place}", useful, n, far=far))
                for cache in ("cold", "warm"):
                    figures = [one for kind, one in found if kind == cache]
                    row = {name: round(median(one[name] for one in figures)) for name in figures[0]}
                    slowest = round(max(one["useful_ms"] for one in figures))
                    table.append({"place": place or "try", "far": far, "cache": cache, **row, "slowest_ms": slowest})
    return table


def main() -> None:
    """Run it; a line of JSON for each row."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with Stack(Path(tempfile.mkdtemp()), settings={"SIGHTLINE_MODEL": "demo"}) as stack, Client(stack.url) as client:
        stack.wait_ready()
        for number in range(JOBS):
            picture = base64.b64encode(scene(SEED + number).png()).decode()
            job = client.submit({"prompt": "Describe this image.", "images": [f"data:image/png;base64,{picture}"]})
        job.wait()
        for row in measure(stack.url, n):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
