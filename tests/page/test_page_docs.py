"""The API's documentation in a real Chromium: all operations, by search and by address, unfolded, without a barrier."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from sightline.client import Client
from sightline.stack import Stack
from tests.browser import visit
from tests.page.test_page_manners import RULES, told_of


def test_every_operation_is_shown_and_found(stack: Stack, browser: Browser, client: Client) -> None:
    paths = client.request("GET", "/openapi.json")["paths"]
    with visit(browser, f"{stack.url}/docs") as page:
        expect(page.locator(".operation")).to_have_count(sum(len(ways) for ways in paths.values()), timeout=10_000)
        page.get_by_label("search").fill("webhook rotate")
        expect(page.locator(".operation")).to_have_count(1)
        expect(page.locator(".operation")).to_contain_text("/v1/webhook_endpoints/{endpoint_id}/rotate_secret")
        page.get_by_label("search").fill("nothing-like-it")
        expect(page.get_by_text("nothing fits")).to_be_visible()


def test_an_address_opens_an_operation_with_its_fields_and_a_command_that_works(stack: Stack, browser: Browser) -> None:
    with visit(browser, f"{stack.url}/docs#create_job") as page:
        operation = page.locator("#create_job")
        expect(operation).to_have_attribute("open", "")
        operation.locator("summary", has_text="Sampling").first.click()
        expect(operation.get_by_text("repetition_penalty")).to_be_visible()
        command = operation.locator("h3:has-text('curl') + .code pre").inner_text()
        assert command.startswith(f"curl -sS -X POST '{stack.url}/v1/jobs'")
        assert '"images": [' in command
        operation.locator("summary", has_text="202").click()
        expect(operation.get_by_text('"status": "succeeded"')).to_be_visible()


@pytest.mark.parametrize(("scheme", "locale", "width"), [("light", "en-GB", 1280), ("dark", "zh-CN", 360)])
def test_axe_finds_no_barrier_in_it(stack: Stack, browser: Browser, scheme: str, locale: str, width: int) -> None:
    context = {
        "color_scheme": scheme,
        "locale": locale,
        "viewport": {"width": width, "height": 800},
        "reduced_motion": "reduce",
    }
    with visit(browser, f"{stack.url}/docs#create_job", **context) as page:
        expect(page.locator("#create_job pre").first).to_be_visible(timeout=10_000)
        for fold in page.locator("#create_job details summary").all():
            fold.click()
        assert told_of(Axe().run(page, options=RULES).response["violations"]) == []
        assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
        assert page.evaluate("document.documentElement.lang") == ("zh-CN" if locale == "zh-CN" else "en")
