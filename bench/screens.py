"""Take the pictures in docs/ off the real demo model: ``python -m bench.screens``.

They are ``make demo``'s table, and the page's views in both languages and both looks.
"""

from __future__ import annotations

import base64
import io
import json
import re
import tempfile
import time
from html import unescape
from pathlib import Path
from typing import Any

from playwright.sync_api import Page
from rich.cells import cell_len
from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI

from demo.scenes import clip, scene
from sightline.client import Client
from sightline.demo import describe_new_scenes, show
from sightline.receiver import Receiver
from sightline.stack import Stack
from tests.browser import chromium, visit

DOCS = Path(__file__).parent.parent / "docs"
FOLDER = DOCS / "page"
LOCALES = {"en": "en-GB", "zh": "zh-CN"}
PROMPTS = {"en": "Describe this image.", "zh": "请用中文描述一下这张图片"}
SEED, JOBS = 600_000, 24
#: Rich's own frame loads a font from elsewhere, which nothing of ours may do.
SVG = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>.{unique_id}-matrix {{ font: {char_height}px/{line_height}px monospace }} {styles}</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>{lines}</defs>
{chrome}<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g></g></svg>
"""
SIZE = {"width": 1280, "height": 860}


def seed(client: Client, receiver: Receiver) -> str:
    """Have something of each kind there; gives a job that says what it saw, and reached a receiver."""
    client.request(
        "POST",
        "/v1/webhook_endpoints",
        json={"url": receiver.url, "event_types": ["job.failed", "batch.completed"], "name": "albums"},
    )
    pictures = [f"data:image/png;base64,{base64.b64encode(scene(SEED + n).png()).decode()}" for n in range(JOBS)]
    for n, picture in enumerate(pictures):
        client.submit({"prompt": list(PROMPTS.values())[n % 2], "images": [picture], "metadata": {"album": f"summer {n}"}})
    film = client.upload(clip(SEED).mp4(), name="walk.mp4")
    client.submit({"prompt": "请用中文描述一下这段视频", "video": film.id, "metadata": {"file": "walk.mp4"}})
    broken = client.upload(scene(SEED).png()[:600], name="broken.png")
    client.submit({"prompt": PROMPTS["en"], "images": [broken.id], "metadata": {"file": "broken.png"}}).wait()
    content = [{"type": "image_url", "image_url": {"url": pictures[0]}}, {"type": "text", "text": PROMPTS["zh"]}]
    body = {"model": "qwen-vl", "messages": [{"role": "user", "content": content}]}
    lines = [{"custom_id": str(n), "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(40)]
    text = "\n".join(json.dumps(line) for line in lines).encode()
    file = client.request("POST", "/v1/files", files={"file": ("albums.jsonl", io.BytesIO(text))}, data={"purpose": "batch"})
    batch = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    client.request("POST", "/v1/batches", json=batch)
    job = client.submit({"prompt": PROMPTS["zh"], "images": [pictures[3]], "webhook": {"url": receiver.url}}).wait()
    return job.id


def described(page: Page, language: str) -> None:
    """Have the page describe a sample."""
    page.locator(".sample").nth(1).click()
    page.locator(".thumb").wait_for()
    page.locator("#prompt").fill(PROMPTS[language])
    page.keyboard.press("Control+Enter")
    page.locator(".stateline .state.succeeded").wait_for(timeout=60_000)
    page.get_by_role("button", name="Python", exact=True).click()


def take(url: str, job_id: str) -> None:
    """Take them all."""
    places: dict[str, Any] = {"try": "", "jobs": "jobs", "job": f"jobs/{job_id}", "workers": "workers", "settings": "settings"}
    with chromium() as browser:
        for language, locale in LOCALES.items():
            for look in ("light", "dark"):
                with visit(browser, url, locale=locale, color_scheme=look, viewport=SIZE) as page:
                    for name, place in places.items():
                        page.goto(f"{url}/#/{place}")
                        if name == "try":
                            described(page, language)
                        page.wait_for_timeout(9000 if name == "workers" else 1200)
                        page.screenshot(path=FOLDER / f"{name}-{language}-{look}.png")
        with visit(browser, url, locale="zh-CN", viewport={"width": 390, "height": 844}, has_touch=True) as page:
            described(page, "zh")
            page.screenshot(path=FOLDER / "try-zh-phone.png", full_page=True)


def demo_table() -> None:
    """Write what `make demo` prints as a drawing."""
    console = Console(record=True, width=128, emoji=False, force_terminal=True)
    show(*describe_new_scenes(SEED), console)
    drawn = console.export_svg(title="make demo", theme=DIMMED_MONOKAI, code_format=SVG, unique_id="demo")
    (DOCS / "demo.svg").write_text(re.sub(r'textLength="([\d.]+)"([^>]*)>([^<]+)<', _as_wide_as_its_cells, drawn))


def _as_wide_as_its_cells(text: re.Match[str]) -> str:
    """Give Chinese the room of two letters, which rich counts as one here."""
    length, others, said = text.groups()
    letters = unescape(said)
    return f'textLength="{float(length) * cell_len(letters) / len(letters):g}"{others}>{said}<'


def main() -> None:
    """Start everything, and take the pictures."""
    demo_table()
    FOLDER.mkdir(parents=True, exist_ok=True)
    settings = {"SIGHTLINE_MODEL": "demo", "SIGHTLINE_ALLOW_NETWORKS": "127.0.0.0/8"}
    with Stack(Path(tempfile.mkdtemp()), settings=settings) as stack, Receiver(stack.secret) as receiver:
        stack.wait_ready()
        with Client(stack.url) as client:
            job_id = seed(client, receiver)
        time.sleep(5)
        take(stack.url, job_id)


if __name__ == "__main__":
    main()
