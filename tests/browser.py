"""A real Chromium for the tests of the page: the one that is there, else one that is fetched (``python -m tests.browser``)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: It talks to nobody but the gateway, and root may start it, as in a container. The camera is a picture of its own.
ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--renderer-process-limit=1",  # one for all views of a visit: each that starts takes a tenth of a second
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


def system_chromium() -> str | None:
    """Find a Chromium of this machine."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def find_chromium() -> str:
    """Give the path of a Chromium.

    Raises:
        RuntimeError: there is none, and how to get one.
    """
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    found = system_chromium() or (own if Path(own).exists() else None)
    if not found:
        raise RuntimeError("the page is tested in a real Chromium: `python -m tests.browser` installs one")
    return found


def install() -> str:
    """Get a Chromium: the system's package where this user may install it, else the one that playwright brings.

    Returns:
        Which it is.

    Raises:
        RuntimeError: neither can be had.
    """
    if found := system_chromium():
        return f"{found}, which was there"
    if os.getuid() == 0 and shutil.which("apt-get"):
        apt = ["apt-get", "-qq"]
        subprocess.run([*apt, "update"], check=False, stdout=subprocess.DEVNULL)
        subprocess.run(
            [*apt, "install", "-y", "--no-install-recommends", "chromium", "fonts-noto-cjk"],
            check=False,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        )
        if found := system_chromium():
            return f"{found}, which apt installed"
    subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)
    return f"{find_chromium()}, which playwright installed"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run a Chromium; playwright's loop ends with the block, so that tests on loops of their own can follow."""
    path = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGS)
        yield browser
        browser.close()


@contextmanager
def visit(browser: Browser, url: str, **context: Any) -> Iterator[Page]:
    """Open the page; whatever its policy stops, whatever crashes in it, and whatever asks another host is the test's failure.

    Args:
        browser: of :func:`chromium`.
        url: where to.
        context: of the browser: locale, colour scheme, size, ...
    """
    own = urlsplit(url).netloc
    with browser.new_context(**({"locale": "en-GB", "viewport": {"width": 1280, "height": 900}} | context)) as opened:
        page = opened.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(f"crash: {error}"))
        page.on("dialog", lambda dialog: (wrong.append(f"a script ran: {dialog.message}"), dialog.dismiss()))
        page.on("console", lambda told: "Content Security" in told.text and wrong.append(f"policy: {told.text}"))
        opened.on(
            "request",
            lambda asked: (
                asked.url.startswith("http") and urlsplit(asked.url).netloc != own and wrong.append(f"leak: {asked.url}")
            ),
        )
        page.goto(url)
        yield page
        assert not wrong, "\n".join(wrong)


#: Puts files into the page as a reader's drop does.
_DROP = """(target, files) => {
  const data = new DataTransfer();
  for (const {name, bytes, type} of files) {
    data.items.add(new File([Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0))], name, {type}));
  }
  for (const kind of ['dragover', 'drop']) {
    target.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
  }
}"""


def drop(page: Page, *files: tuple[str, bytes, str]) -> None:
    """Drop files on the page: names, bytes and declared types."""
    from base64 import b64encode

    given = [{"name": name, "bytes": b64encode(data).decode(), "type": kind} for name, data, kind in files]
    page.locator(".drop").evaluate(_DROP, given)


if __name__ == "__main__":
    print(f"tests of the page: {install()}")  # noqa: T201  # whoever runs the tests wants to know
