"""Workers and settings in the page: endpoints, batches, files, keys, and a page for walls."""

from __future__ import annotations

import json

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from sightline.receiver import Receiver
from sightline.stack import Stack
from tests.browser import visit
from tests.media import data_url, picture
from tests.page.conftest import PNG, ask, gateway_beside, make_key


def open_settings(page: Page, stack: Stack) -> None:
    page.goto(f"{stack.url}/#/settings")


def test_workers_and_the_queue_are_shown_with_charts(page, stack):
    page.goto(f"{stack.url}/#/workers")
    card = page.locator(".worker")
    expect(card).to_contain_text("ready", timeout=10_000)
    expect(card).to_contain_text("double 1")
    expect(page.get_by_role("img", name="jobs a second")).to_be_visible()
    expect(page.locator(".chart canvas")).to_have_count(3)
    page.get_by_role("button", name="look: system").click()  # the canvas is drawn anew in the other colours
    expect(page.locator(".chart canvas")).to_have_count(3)


def test_an_endpoint_is_made_tried_rotated_and_deleted(page, stack):
    open_settings(page, stack)
    with Receiver(stack.secret) as receiver:
        page.get_by_role("button", name="new", exact=True).click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("address").fill("ftp://nowhere")
        dialog.get_by_role("button", name="create").click()
        expect(dialog.get_by_role("alert")).to_be_visible()
        dialog.get_by_label("address").fill(receiver.url)
        dialog.get_by_label("name").fill("相册")
        dialog.get_by_label("job.cancelled").uncheck()
        dialog.get_by_role("button", name="create").click()
        secret = dialog.locator("pre").inner_text()
        assert secret.startswith("whsec_")
        dialog.get_by_role("button", name="I have kept it").click()
        item = page.locator("#endpoints .item").filter(has_text=receiver.url)
        expect(item).to_contain_text("相册")
        expect(item).to_contain_text("job.succeeded, job.failed")
        expect(page.locator("main")).not_to_contain_text(secret)
        item.get_by_role("button", name="test").click()
        expect(item).to_contain_text("answer", timeout=10_000)
        item.get_by_role("button", name="new secret").click()
        assert dialog.locator("pre").inner_text() != secret
        dialog.get_by_role("button", name="I have kept it").click()
        item.get_by_role("button", name="delete").click()
        dialog.get_by_role("button", name="delete").click()
        expect(item).to_have_count(0)


def test_a_batch_is_made_of_a_file_and_its_answers_are_saved(page, stack):
    content = [{"type": "image_url", "image_url": {"url": data_url(picture())}}, {"type": "text", "text": "一行"}]
    body = {"model": "qwen-vl", "messages": [{"role": "user", "content": content}]}
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    open_settings(page, stack)
    file = {"name": "lines.jsonl", "mimeType": "application/jsonl", "buffer": json.dumps(line).encode()}
    page.locator("[data-part=batch]").set_input_files([file])
    item = page.locator("#batches .item")
    expect(item).to_contain_text("completed", timeout=30_000)
    expect(item).to_contain_text("1 of 1 done")
    with page.expect_download() as saved:
        item.get_by_role("button", name="save the answers").click()
    answer = json.loads(saved.value.path().read_text())
    assert "一行" in answer["response"]["body"]["choices"][0]["message"]["content"]


def test_files_are_listed_and_deleted_after_a_question(page, stack):
    with httpx.Client(base_url=stack.url, trust_env=False) as http:
        http.post("/v1/files", files={"file": ("猫 & <b>狗</b>.png", picture(), PNG)})
    open_settings(page, stack)
    item = page.locator("#files .item").filter(has_text="猫 & <b>狗</b>.png")
    expect(item).to_contain_text("image/png")
    item.get_by_role("button", name="delete").click()
    page.get_by_role("dialog").get_by_role("button", name="back").click()
    expect(item).to_have_count(1)
    item.get_by_role("button", name="delete").click()
    page.get_by_role("dialog").get_by_role("button", name="delete").click()
    expect(item).to_have_count(0)


LATE = """async () => {
    const api = await import(document.querySelector('script[type=module]').src.replace('app.js', 'api.js'));
    window.late = api.ask('GET', 'v1/files').catch((error) => error.status);
}"""


@pytest.fixture(scope="module")
def secret(stack: Stack) -> str:
    return make_key(stack, "小明")


def test_a_late_refusal_of_the_last_key_tells_nothing_of_the_new_one(keyed: str, secret: str, browser: Browser):
    held: list[Route] = []
    with visit(browser, keyed) as page:
        page.route("**/v1/files", lambda route: held.append(route))  # noqa: PLW0108  # playwright asks for a function of Python
        with page.expect_request("**/v1/files"):
            page.evaluate(LATE)
        asked = page.get_by_role("dialog")
        asked.get_by_label("API key").fill(secret)
        asked.get_by_label("API key").press("Enter")
        expect(asked).to_have_count(0)
        held[0].fulfill(status=401, body="{}")
        assert page.evaluate("window.late") == 401
        page.wait_for_function("new Promise(requestAnimationFrame)")
        expect(asked).to_have_count(0)


def test_a_service_with_keys_asks_for_one_and_keeps_it_for_the_tab(keyed: str, secret: str, browser: Browser):
    with visit(browser, keyed) as page:
        asked = page.get_by_role("dialog")
        expect(asked).to_contain_text("asks for an API key")
        field = asked.get_by_label("API key")
        field.fill("sk-wrong")
        field.press("Enter")
        expect(asked.get_by_role("alert")).to_be_visible()
        field.fill(secret)
        field.press("Enter")
        expect(asked).to_have_count(0)
        ask(page, "with a key")
        expect(page.locator("[data-part=text]")).to_contain_text("with a key", timeout=20_000)
        page.get_by_role("button", name="curl").click()
        expect(page.locator(".code code")).to_contain_text("$SIGHTLINE_API_KEY")
        page.reload()
        expect(asked).to_have_count(0)
        for place in ("", "jobs", "workers", "settings"):
            page.goto(f"{keyed}/#/{place}")
            page.wait_for_timeout(200)
            assert secret not in page.url
            assert secret not in page.content()
        assert page.context.cookies() == []
        page.get_by_role("button", name="Sign out").click()
        expect(asked).to_be_visible()
    with visit(browser, keyed) as page:
        expect(page.get_by_role("dialog")).to_be_visible()


def test_a_page_for_walls_shows_and_has_nothing_to_press(stack: Stack, browser: Browser):
    with gateway_beside(stack, page="read-only") as url, visit(browser, url) as page:
        expect(page.locator(".job-row").first).to_be_visible()
        expect(page.get_by_role("link", name="Try")).to_have_count(0)
        expect(page.get_by_role("checkbox")).to_have_count(0)
        page.goto(f"{url}/#/settings")
        expect(page.locator("#files")).to_be_visible()
        for name in ("new", "delete", "cancel", "create"):
            expect(page.get_by_role("button", name=name, exact=True)).to_have_count(0)
