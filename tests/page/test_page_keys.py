"""Keys in the page, for one that may administer them: made, limited and revoked, by keys alone, in both languages and looks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, Route, expect

from sightline.stack import Stack
from tests.browser import visit
from tests.page.conftest import make_key
from tests.page.test_page_manners import _WORDS, CONTRAST, LOOKS, OTHER, RULES, reach, told_of


@pytest.fixture(scope="module")
def admin(stack: Stack) -> str:
    return make_key(stack, "root", "--admin")


@contextmanager
def settings_of(browser: Browser, url: str, secret: str, **context: Any) -> Iterator[Page]:
    """Sign in, and open the settings."""
    with view_of(browser, f"{url}/#/settings", secret, **context) as page:
        yield page


@contextmanager
def view_of(browser: Browser, url: str, secret: str, **context: Any) -> Iterator[Page]:
    """Sign in, and open a view."""
    with visit(browser, url, **context) as page:
        page.locator("dialog input").fill(secret)
        page.locator("dialog input").press("Enter")
        expect(page.locator("dialog")).to_have_count(0)
        yield page


def row(page: Page, name: str) -> Locator:
    return page.locator("#keys .item").filter(has_text=name)


def allows(url: str, secret: str) -> int:
    headers = {"authorization": f"Bearer {secret}"}
    with httpx.Client(base_url=url, headers=headers, trust_env=False) as client:
        return client.get("/v1/keys").status_code


def test_a_key_is_made_limited_and_revoked_by_keys_alone(keyed: str, admin: str, browser: Browser) -> None:
    with settings_of(browser, keyed, admin) as page:
        dialog = page.get_by_role("dialog")
        expect(row(page, "root")).to_contain_text("the key of this tab · may administer")
        reach(page, "new key")
        page.keyboard.press("Enter")
        expect(dialog.get_by_label("whom it is for")).to_be_focused()
        page.keyboard.press("Enter")  # without a name
        expect(dialog.get_by_role("alert")).to_contain_text("name")
        expect(dialog.get_by_label("whom it is for")).to_be_focused()
        page.keyboard.type("相册 & <b>猫</b>")
        page.keyboard.press("Tab")
        page.keyboard.type("60")
        reach(page, "share of the workers")
        page.keyboard.type("2.5")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("It is shown this once.")
        secret = dialog.locator("pre").inner_text()
        assert allows(keyed, secret) == 403  # it is a key, and no more
        page.keyboard.press("Escape")
        made = row(page, "相册 & <b>猫</b>")
        expect(made).to_contain_text("requests a minute: 60 · share of the workers: 2.5")
        assert secret not in page.content()
        assert secret not in page.evaluate("location.href + JSON.stringify(sessionStorage) + JSON.stringify(localStorage)")

        reach(page, "limits 相册")
        page.keyboard.press("Enter")
        expect(dialog.get_by_label("requests a minute")).to_have_value("60")
        dialog.get_by_label("requests a minute").fill("")
        dialog.get_by_label("jobs running").fill("4")
        page.keyboard.press("Enter")
        expect(made).to_contain_text("jobs running: 4 · share of the workers: 2.5")
        expect(made).not_to_contain_text("requests a minute")

        reach(page, "revoke 相册")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("its jobs run on")
        reach(page, "revoke")
        page.keyboard.press("Enter")
        expect(made).to_have_count(0)
        assert allows(keyed, secret) == 401


def revoke(page: Page, name: str) -> None:
    row(page, name).get_by_role("button", name="revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="revoke").click()


def test_the_key_of_the_tab_is_revoked_once_there_is_another(keyed: str, admin: str, stack: Stack, browser: Browser) -> None:
    with settings_of(browser, keyed, admin) as page:
        revoke(page, "root")
        expect(page.locator("#keys").get_by_role("alert")).to_contain_text("last_admin_key")
        expect(page.locator("#keys").get_by_role("alert")).to_contain_text("Another one has to be made first")
    second = make_key(stack, "second", "--admin")
    with settings_of(browser, keyed, second) as page:
        expect(row(page, "second")).to_contain_text("the key of this tab")
        revoke(page, "second")
        expect(page.get_by_role("dialog")).to_contain_text("asks for an API key")
        expect(page.locator("#keys")).to_have_count(0)


def test_a_key_without_the_right_sees_its_own_alone(keyed: str, stack: Stack, browser: Browser) -> None:
    secret = make_key(stack, "plain")
    with settings_of(browser, keyed, secret) as page:
        expect(page.locator("#keys")).to_contain_text("This key may not see the others")
        expect(page.locator("#keys")).to_contain_text(f"…{secret[-4:]}")
        expect(page.locator("#keys .item")).to_have_count(0)
        expect(page.get_by_role("button", name="new key")).to_have_count(0)


def test_a_service_without_keys_shows_none(page: Page, stack: Stack, admin: str) -> None:
    page.goto(f"{stack.url}/#/settings")
    expect(page.locator("#keys")).to_contain_text("asks for no key")
    expect(page.locator("#keys")).to_contain_text("sightline keys create NAME")
    expect(page.locator("#keys .item")).to_have_count(0)


def test_a_worker_is_drained_after_a_question_by_who_may(keyed: str, admin: str, stack: Stack, browser: Browser) -> None:
    workers, told = f"{keyed}/#/workers", list[str]()

    def note(route: Route) -> None:
        told.append(route.request.method + route.request.url.rpartition("/v1")[2])
        route.fulfill(status=202, json={})  # the worker is there for all tests

    with view_of(browser, workers, admin) as page:
        page.route("**/drain", note)
        drain, dialog = page.get_by_role("button", name="drain"), page.get_by_role("dialog")
        drain.click(timeout=10_000)
        expect(dialog).to_contain_text("finishes those that it holds")
        dialog.get_by_role("button", name="back").click()
        drain.click()
        assert told == []
        dialog.get_by_role("button", name="drain").click()
        expect(drain).to_be_disabled()
    (worker,) = httpx.get(f"{stack.url}/v1/workers", trust_env=False).json()["data"]
    assert told == [f"POST/workers/{worker['id']}/drain"]

    with settings_of(browser, keyed, make_key(stack, "no right")) as page:
        with page.expect_response("**/v1/keys?limit=1"):
            page.get_by_role("link", name="Workers").click()
        expect(page.locator(".worker")).to_contain_text("ready", timeout=10_000)
        expect(page.get_by_role("button", name="drain")).to_have_count(0)


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: "-".join(map(str, look)))
def test_axe_finds_no_barrier_among_keys(
    look: tuple[Literal["light", "dark"], str, int], keyed: str, admin: str, browser: Browser
) -> None:
    scheme, locale, width = look
    context = {
        "color_scheme": scheme,
        "locale": locale,
        "viewport": {"width": width, "height": 800},
        "reduced_motion": "reduce",
    }
    told, is_chinese = [], locale.startswith("zh")
    with settings_of(browser, keyed, admin, **context) as page:

        def look_at(view: str) -> None:
            expect(page.get_by_role("dialog")).to_have_count(int(view != "list"))
            found = told_of(Axe().run(page, options=RULES).response["violations"])
            page.emulate_media(color_scheme=OTHER[scheme])
            found += told_of(page.evaluate("async rules => (await axe.run(rules)).violations", CONTRAST))
            page.emulate_media(color_scheme=scheme)
            if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                found.append("wider than the screen")
            if is_chinese:
                found += page.evaluate(_WORDS)
            told.extend(f"{view}: {line}" for line in found)

        expect(row(page, "root")).to_have_count(1)
        look_at("list")
        page.locator("#keys button").first.click()
        look_at("form")
        page.locator("dialog input").first.fill(f"axe {scheme}")
        page.locator("dialog .primary").click()
        expect(page.locator("dialog pre")).to_have_count(1)
        look_at("secret")
        page.keyboard.press("Escape")
        made = row(page, f"axe {scheme}")
        made.get_by_role("button").nth(1).click()
        look_at("limits")
        page.keyboard.press("Escape")
        made.get_by_role("button").nth(2).click()
        look_at("question")
        page.locator("dialog .danger").click()
        expect(made).to_have_count(0)
    assert not told, "\n".join(told)
