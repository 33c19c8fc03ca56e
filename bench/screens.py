"""Take the pictures in docs/ off the real demo model: ``python -m bench.screens``.

They are ``make demo``'s table, and the page's views in both languages and both looks, and on a phone.
"""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import tempfile
import time
from contextlib import ExitStack
from html import unescape
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page
from rich.cells import cell_len
from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI

from demo.scenes import clip, scene
from sightline.client import Client
from sightline.demo import describe_new_scenes, show
from sightline.ports import free_port
from sightline.receiver import Receiver
from sightline.stack import Stack
from tests.browser import chromium, drop, visit
from tests.page.conftest import make_key

DOCS = Path(__file__).parent.parent / "docs"
FOLDER = DOCS / "page"
LOCALES = {"en": "en-GB", "zh": "zh-CN"}
PROMPTS = {"en": "Describe this image.", "zh": "请用中文描述一下这张图片"}
COLOURS, PHONES = ("light", "dark"), (("en", "dark"), ("zh", "light"))
SEED, JOBS = 600_000, 24
#: Rich's own frame loads a font from elsewhere, which nothing of ours may do.
SVG = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>.{unique_id}-matrix {{ font: {char_height}px/{line_height}px monospace }} {styles}</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>{lines}</defs>
{chrome}<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g></g></svg>
"""
TALLEST = 2400  #: of long lists the beginning says enough
WIDE, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
#: A look: its name in a file's, its language, and what the browser is told.
Look = tuple[str, str, dict[str, Any]]
LOOKS: list[Look] = [
    *((f"{at}-{look}", at, {"color_scheme": look, "viewport": WIDE}) for at in LOCALES for look in COLOURS),
    *((f"{at}-phone", at, {"color_scheme": look, "viewport": PHONE, "has_touch": True}) for at, look in PHONES),
]


def endpoint(client: Client, port: int) -> str:
    """Have an endpoint at a port of this machine; gives its secret."""
    types = ["job.succeeded", "job.failed", "batch.completed"]
    body = {"url": f"http://127.0.0.1:{port}/webhook", "event_types": types, "name": "albums"}
    secret: str = client.request("POST", "/v1/webhook_endpoints", json=body)["signing_secret"]
    return secret


def seed(client: Client) -> None:
    """Have something of each other kind there."""
    client.request("POST", "/v1/keys", json={"name": "相册", "max_requests": 600, "max_jobs_day": 20_000})
    client.request("POST", "/v1/keys", json={"name": "night shift", "weight": 0.5})
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


def sign_in(page: Page, secret: str) -> None:
    """Give the page its key."""
    page.locator("dialog input").fill(secret)
    page.keyboard.press("Enter")
    page.locator("dialog").wait_for(state="detached")


def described(page: Page, language: str) -> None:
    """Have the page describe a sample."""
    page.locator(".sample").nth(1).click()
    page.locator(".thumb").wait_for()
    page.locator("#prompt").fill(PROMPTS[language])
    page.keyboard.press("Control+Enter")
    page.locator(".stateline .state.succeeded").wait_for(timeout=60_000)
    page.get_by_role("button", name="Python", exact=True).click()


def described_folder(page: Page, language: str) -> None:
    """Have the page describe several pictures, of which one is none."""
    files = [(f"holiday/{n:02}.png", scene(SEED + 50 + n).png(), "image/png") for n in range(9)]
    files.insert(4, ("holiday/04-cut.png", scene(SEED + 60).png()[:600], "image/png"))
    drop(page, *files)
    page.locator("#prompt").fill(PROMPTS[language])
    page.keyboard.press("Control+Enter")
    page.locator(".told .number", has_text=re.compile("10.*10")).wait_for(timeout=60_000)


def shoot(page: Page, name: str, *, whole: bool = False) -> None:
    """Take a picture, in as many colours as it needs."""
    page.mouse.move(0, 0)
    shot = Image.open(io.BytesIO(page.screenshot(full_page=whole))).convert("RGB")
    shot = shot.crop((0, 0, shot.width, min(shot.height, TALLEST)))
    shot.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(FOLDER / f"{name}.png", optimize=True)


def take(browser: Browser, url: str, secret: str, look: Look) -> None:
    """Take a picture of each view."""
    name, language, context = look
    is_phone = "has_touch" in context
    with visit(browser, url, locale=LOCALES[language], **context) as page:
        page.locator("dialog input").wait_for()
        shoot(page, f"sign-in-{name}")
        sign_in(page, secret)
        described(page, language)
        shoot(page, f"try-{name}", whole=is_phone)
        page.locator(".told a.button").click()
        page.locator(".lanes").wait_for()
        page.wait_for_timeout(2000)  # its delivery
        shoot(page, f"job-{name}", whole=is_phone)
        page.goto(f"{url}/#/")
        described_folder(page, language)
        shoot(page, f"folder-{name}", whole=is_phone)
        for place, settled_ms in {"jobs": 1200, "workers": 9000, "settings": 1200}.items():
            page.goto(f"{url}/#/{place}")
            page.wait_for_timeout(settled_ms)
            shoot(page, f"{place}-{name}", whole=place == "settings" or is_phone)
        page.goto(f"{url}/docs#create_job")
        page.locator("#create_job").wait_for()
        page.wait_for_timeout(500)
        shoot(page, f"docs-{name}")


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
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    settings = {"SIGHTLINE_MODEL": "demo", "SIGHTLINE_ALLOW_NETWORKS": "127.0.0.0/8", "SIGHTLINE_REQUIRE_KEYS": "true"}
    with ExitStack() as opened:
        stack = opened.enter_context(Stack(Path(tempfile.mkdtemp()), settings=settings))
        stack.wait_ready()
        secret = make_key(stack, "Ada", "--admin")
        client, port = opened.enter_context(Client(stack.url, api_key=secret)), free_port()
        opened.enter_context(Receiver(endpoint(client, port), port=port))
        seed(client)
        time.sleep(5)
        browser = opened.enter_context(chromium())
        for look in LOOKS:
            take(browser, stack.url, secret, look)


if __name__ == "__main__":
    main()
