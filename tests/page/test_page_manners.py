"""How the page behaves to people: no barrier that axe knows of, on a phone, in the dark, in Chinese, by keys alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from sightline.client import Client
from sightline.receiver import Receiver
from sightline.stack import Stack
from tests.browser import drop, visit
from tests.media import picture
from tests.page.conftest import PNG, ask, submit

#: What WCAG 2.2 asks at the levels A and AA, and what axe's makers advise besides. To list what passes takes as long again.
RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],
}
CONTRAST = RULES | {"runOnly": ["color-contrast"]}
OTHER: dict[str, Literal["light", "dark"]] = {"light": "dark", "dark": "light"}
LOOKS = [("light", "en-GB", 1280), ("dark", "zh-CN", 360)]


@pytest.fixture(scope="module")
def seeded(stack: Stack) -> dict[str, str]:
    """Jobs of all ends, an endpoint and a file; gives ids."""
    with Client(stack.url) as client, Receiver(stack.secret) as receiver:
        client.request(
            "POST", "/v1/webhook_endpoints", json={"url": "http://127.0.0.1:9809/x", "event_types": ["batch.completed"]}
        )
        jobs = {
            "good": submit(client, "海边的女孩和金毛犬", webhook={"url": receiver.url}, metadata={"album": "夏"}),
            "bad": submit(client, "!long"),
            "slow": submit(client, "!slow 600"),
        }
        client.job(jobs["good"]).wait()
        client.job(jobs["bad"]).wait()
    return jobs


def try_result(page: Page) -> None:
    ask(page, "什么")
    expect(page.locator(".stateline .state.succeeded")).to_be_visible(timeout=20_000)
    page.get_by_role("button", name="openai").click()
    for fold in page.locator("details.fold summary").all():
        fold.click()


def try_folder(page: Page) -> None:
    ask(page, "什么", "a.png", "b.png", "c.png")
    expect(page.locator(".file-row .state.succeeded")).to_have_count(3, timeout=20_000)


def try_refused(page: Page) -> None:
    drop(page, ("x.svg", b"<svg/>", "image/svg+xml"), ("ok.png", picture(), PNG))
    expect(page.locator(".refused")).to_be_visible()


def press(selector: str) -> Callable[[Page], None]:
    def pressed(page: Page) -> None:
        page.locator(selector).first.click()
        expect(page.get_by_role("dialog")).to_be_visible()

    return pressed


def unfold(page: Page) -> None:
    for fold in page.locator("details summary").all():
        fold.click()


VIEWS: dict[str, tuple[str, Callable[[Page], None] | None]] = {
    "try": ("", None),
    "try, a result": ("", try_result),
    "try, a folder": ("", try_folder),
    "try, refused": ("", try_refused),
    "jobs": ("jobs", None),
    "jobs, a question": ("jobs", lambda page: (page.locator(".job-row input").first.check(), page.keyboard.press("c"))[0]),
    "jobs, keys": ("jobs", lambda page: page.keyboard.press("?")),
    "jobs, none": ("jobs?q=nothing-like-it", None),
    "job, good": ("jobs/{good}", unfold),
    "job, bad": ("jobs/{bad}", unfold),
    "job, running": ("jobs/{slow}", None),
    "job, unknown": ("jobs/job_0", None),
    "workers": ("workers", None),
    "settings": ("settings", None),
    "settings, an endpoint": ("settings", press("#endpoints button")),
    "nowhere": ("nowhere", None),
}


def told_of(found: list[dict[str, Any]]) -> list[str]:
    return [f"{one['id']}: {node['html'][:160]} {node['any'][:1]}" for one in found for node in one["nodes"][:3]]


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: "-".join(map(str, look)))
def test_axe_finds_no_barrier_and_nothing_is_wider_than_the_screen(
    look: tuple[Literal["light", "dark"], str, int], stack: Stack, browser: Browser, seeded: dict[str, str]
) -> None:
    scheme, locale, width = look
    found = {}
    context = {
        "color_scheme": scheme,
        "locale": locale,
        "viewport": {"width": width, "height": 800},
        "reduced_motion": "reduce",
    }
    with visit(browser, stack.url, **context) as page:
        for name, (place, act) in VIEWS.items():
            page.goto("about:blank")
            page.goto(f"{stack.url}/#/{place.format(**seeded)}")
            expect(page.locator("main h1")).to_have_count(1, timeout=10_000)
            page.wait_for_timeout(150)
            if act:
                act(page)
            told = told_of(Axe().run(page, options=RULES).response["violations"])
            page.emulate_media(color_scheme=OTHER[scheme])  # which changes colours and nothing else
            told += told_of(page.evaluate("async rules => (await axe.run(rules)).violations", CONTRAST))
            page.emulate_media(color_scheme=scheme)
            if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                told.append("wider than the screen")
            if told:
                found[name] = told
    assert not found, "\n".join(f"{name}: {line}" for name, lines in found.items() for line in lines)


def test_the_language_is_the_browser_s_and_can_be_switched(stack, browser):
    with visit(browser, stack.url, locale="zh-CN") as page:
        assert page.evaluate("document.documentElement.lang") == "zh-CN"
        expect(page.get_by_role("link", name="任务")).to_be_visible()
        page.get_by_role("button", name="English").click()
        expect(page.get_by_role("link", name="Jobs")).to_be_visible()
        assert page.evaluate("document.documentElement.lang") == "en"
        page.reload()
        expect(page.get_by_role("link", name="Jobs")).to_be_visible()


def test_no_english_is_left_in_chinese(stack, browser, seeded):
    with visit(browser, stack.url, locale="zh-CN") as page:
        for place in ("", "jobs", f"jobs/{seeded['good']}", "workers", "settings"):
            page.goto(f"{stack.url}/#/{place}")
            page.wait_for_timeout(600)
            words = page.evaluate(_WORDS)
            assert not words, (place, words)


#: Texts on the page that are English words and nothing else, but for what is code or a name.
_WORDS = """() => {
  const walker = document.createTreeWalker(document.querySelector('#app'), NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const {parentElement, data} = walker.currentNode;
    const own = 'pre, code, kbd, .id, .text, .line, noscript, .brand, [lang=en], .item, .facts dd, option';
    if (parentElement.closest(own)) continue;
    const text = data.trim();
    if (/^[A-Za-z][a-z ,]+$/.test(text) && !['curl', 'openai', 'top-p', 'Python'].includes(text)) found.push(text);
  }
  return found;
}"""


def test_the_look_is_the_system_s_and_can_be_switched(stack, browser):
    def paper(page: Page) -> str:
        colour: str = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        return colour

    with visit(browser, stack.url, color_scheme="dark") as page:
        dark = paper(page)
        page.get_by_role("button", name="look: system").click()
        assert paper(page) != dark
        page.get_by_role("button", name="look: light").click()
        assert paper(page) == dark
        page.reload()
        page.get_by_role("button", name="look: dark").wait_for()
        assert paper(page) == dark


def test_a_picture_is_described_looked_up_and_cancelled_by_keys_alone(page, stack):
    with page.expect_file_chooser() as chooser:  # from before the first Tab: the browser hears of it while other keys come
        reach(page, "Drop, paste or choose")
        page.keyboard.press("Enter")
    chooser.value.set_files([{"name": "k.png", "mimeType": PNG, "buffer": picture()}])
    reach(page, "prompt")
    page.keyboard.press("Control+a")
    page.keyboard.type("!speak 0.05 " + "w " * 400)
    page.keyboard.press("Control+Enter")
    expect(page.locator(".stateline .state.running")).to_be_visible(timeout=20_000)
    reach(page, "Stop")
    page.keyboard.press("Enter")
    expect(page.locator(".stateline .state.cancelled")).to_be_visible(timeout=20_000)
    reach(page, "Jobs")
    page.keyboard.press("Enter")
    expect(page.locator(".job-row").first).to_contain_text("cancelled")  # and not a row of an earlier test
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.locator(".stateline .state.cancelled")).to_be_visible()
    page.go_back()
    expect(page.locator(".job-row").first).to_be_visible()


def reach(page: Page, name: str) -> None:
    """Press Tab until what has this name has the focus, which must be seen."""
    for _ in range(80):
        page.keyboard.press("Tab")
        told = page.evaluate("""() => {
          const at = document.activeElement;
          const label = at.labels?.[0]?.textContent ?? '';
          return [at.getAttribute('aria-label') ?? '', label, at.textContent ?? '', getComputedStyle(at).outlineStyle];
        }""")
        if any(text.strip().startswith(name) for text in told[:3]):
            assert told[3] != "none", f"{name} has the focus, and nobody sees it"
            return
    pytest.fail(f"{name} cannot be reached by Tab")


def test_the_title_says_how_many_jobs_run(page, stack, client):
    job_id = submit(client, "!slow 600")
    expect(page).to_have_title(re.compile(r"^\(\d+\) Sightline$"), timeout=10_000)
    client.job(job_id).cancel()


def test_controls_are_large_enough_for_fingers(stack, browser):
    with visit(browser, stack.url, viewport={"width": 360, "height": 740}, has_touch=True) as page:
        for place in ("", "jobs", "settings"):
            page.goto(f"{stack.url}/#/{place}")
            page.wait_for_timeout(400)
            assert page.evaluate(_SMALL) == [], place


#: Controls that are smaller than a finger.
_SMALL = """() => {
  const controls = 'button, a.button, nav a, select, input:not([type=checkbox]), summary';
  return [...document.querySelectorAll(controls)]
    .filter((one) => one.checkVisibility() && !one.matches('.id, .sr, .skip'))
    .map((one) => [one.outerHTML.slice(0, 90), one.getBoundingClientRect()])
    .filter(([, box]) => box.height < 39.5 || box.width < 39.5)
    .map(([html, box]) => `${html} ${box.width}x${box.height}`);
}"""
