"""What stood in the way of people who came to the page for the first time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from sightline.client import Client
from sightline.stack import Stack
from tests.browser import drop, visit
from tests.media import picture
from tests.page.conftest import PNG, ask, make_key, run_keys, submit


def test_what_was_described_makes_room_for_the_next_picture(page: Page) -> None:
    ask(page, "first")
    expect(page.locator(".stateline .state.succeeded")).to_be_visible(timeout=20_000)
    drop(page, ("b.png", picture(), PNG))
    expect(page.locator(".thumb")).to_have_count(1)
    expect(page.locator(".thumb")).to_have_attribute("title", "b.png")
    drop(page, ("c.png", picture(), PNG))  # b was not asked about yet
    expect(page.locator(".thumb")).to_have_count(2)
    page.get_by_role("button", name="Describe 2 files").click()
    expect(page.locator(".told .number", has_text="2 of 2 done")).to_be_visible(timeout=20_000)
    drop(page, ("x.svg", b"<svg/>", "image/svg+xml"))  # is not taken, and nothing makes room for it
    expect(page.locator(".thumb")).to_have_count(2)


def test_many_files_leave_the_question_in_sight(page: Page) -> None:
    drop(page, *((f"{n}.png", picture(), PNG) for n in range(12)))
    expect(page.locator(".thumb")).to_have_count(12)
    drop(page, *((f"more {n}.png", picture(), PNG) for n in range(188)))
    expect(page.locator(".more")).to_have_text("+ 193")
    expect(page.get_by_role("button", name="Describe 200 files")).to_be_in_viewport()


def test_a_usual_prompt_follows_the_language_and_own_words_stay(page: Page) -> None:
    prompt = page.locator("#prompt")
    expect(prompt).to_have_value("Describe this image.")
    page.get_by_role("button", name="中文").click()
    expect(prompt).to_have_value("请用中文描述一下这张图片")
    prompt.fill("几只猫？")
    page.get_by_role("button", name="English").click()
    expect(prompt).to_have_value("几只猫？")


def test_a_phone_shows_the_answer_without_scrolling_to_it(stack: Stack, browser: Browser) -> None:
    with visit(browser, stack.url, viewport={"width": 390, "height": 700}, has_touch=True) as page:
        drop(page, ("a.png", picture(), PNG))
        page.locator("#prompt").fill("on a phone")
        page.get_by_role("button", name="Describe").tap()
        expect(page.locator("[data-part=text]")).to_contain_text("on a phone", timeout=20_000)
        expect(page.locator(".stateline")).to_be_in_viewport()
        expect(page.locator("[data-part=text]")).to_be_in_viewport()


def test_nothing_to_cancel_is_told_and_so_is_a_retry_that_was_refused(page: Page, stack: Stack, client: Client) -> None:
    ended = submit(client, "!long", group="newcomer")
    client.job(ended).wait()
    page.goto(f"{stack.url}/#/jobs?group=newcomer")
    page.get_by_role("button", name="cancel all that match").click()
    expect(page.locator(".jobs")).to_contain_text("nothing to cancel")
    expect(page.get_by_role("dialog")).to_have_count(0)
    refused = {"message": "the queue is full", "type": "rate_limit_error", "param": None, "code": "queue_full"}

    def full(route: Route) -> None:
        dry = json.loads(route.request.post_data or "{}")["dry_run"]
        answer = {"object": "jobs.retry", "matched": 5, "done": 0 if dry else 2, "dry_run": dry}
        route.fulfill(json=answer if dry else answer | {"error": refused})

    page.route("**/v1/jobs/retry", full)
    page.get_by_role("button", name="retry all that match").click()
    page.get_by_role("dialog").get_by_role("button", name="retry them").click()
    expect(page.locator(".jobs")).to_contain_text("2 of 5 tried anew")
    expect(page.locator(".jobs [role=alert]")).to_contain_text("the queue is full")


def test_more_filters_are_set_by_controls_and_stand_in_the_address(page: Page, stack: Stack, client: Client) -> None:
    wanted = submit(client, "x", group="rare")
    page.goto(f"{stack.url}/#/jobs")
    page.get_by_text("more filters").click()
    page.get_by_label("group").fill("rare")
    page.get_by_label("group").press("Enter")
    expect(page.locator(".job-row")).to_have_count(1)
    page.get_by_label("since").fill("2030-01-01T00:00")
    page.get_by_label("since").press("Tab")
    expect(page.get_by_text("No job matches.")).to_be_visible()
    page.reload()  # what is set is shown, and unfolded
    expect(page.get_by_label("since")).to_have_value("2030-01-01T00:00")
    page.get_by_label("since").fill("")
    page.get_by_label("since").press("Tab")
    expect(page.locator(f"#job-{wanted}")).to_be_visible()
    page.get_by_label("class").select_option("bulk")
    expect(page.get_by_text("No job matches.")).to_be_visible()
    assert "class=bulk" in page.url


@pytest.mark.parametrize(
    ("phases", "told", "why"),
    [
        (["loading"], "1 starting", "The model is being loaded."),
        ([], "0 ready", "No worker is running; it waits for one."),
        (["ready", "warming"], "1 ready · 1 starting", ""),
    ],
)
def test_it_is_told_why_nothing_is_taken_up(page: Page, phases: list[str], told: str, why: str) -> None:
    workers = [{"id": f"worker_{n}", "phase": phase} for n, phase in enumerate(phases)]
    page.route("**/v1/workers", lambda route: route.fulfill(json={"object": "list", "data": workers}))
    page.route("**/v1/queue", _with_ready(phases.count("ready")))
    page.reload()
    expect(page.locator(".health")).to_contain_text(told)
    assert page.evaluate(_WHY) == why


_WHY = """async () => {
  const shell = document.querySelector('script[type=module]').src.replace('app.js', 'shell.js');
  return (await import(shell)).whyWaiting();
}"""


def _with_ready(n: int) -> Callable[[Route], None]:
    def answer(route: Route) -> None:
        route.fulfill(json=route.fetch().json() | {"workers_ready": n})

    return answer


def test_a_place_that_is_first_opened_while_the_gateway_is_away_comes_by_itself(stack: Stack, browser: Browser) -> None:
    with visit(browser, stack.url, locale="zh-CN") as page:
        expect(page.locator(".health")).to_contain_text("就绪", timeout=20_000)
        stack.processes["gateway"].terminate()
        stack.processes["gateway"].wait()
        page.get_by_role("link", name="工作进程").click()
        expect(page.get_by_role("alert")).to_contain_text("网关没有响应。")
        expect(page.locator(".health")).to_contain_text("网关没有响应", timeout=20_000)
        stack.respawn("gateway")
        expect(page.locator(".worker")).to_be_visible(timeout=60_000)


def test_a_key_that_is_revoked_meanwhile_is_told_of_and_another_one_reads_anew(
    keyed: str, stack: Stack, browser: Browser
) -> None:
    first, second = make_key(stack, "one"), make_key(stack, "two")
    with Client(keyed, api_key=second) as client:
        own = submit(client, "of the second key")
        client.job(own).wait()
    with visit(browser, f"{keyed}/#/jobs") as page:
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("API key").fill(first)
        page.keyboard.press("Enter")
        expect(page.get_by_text("No jobs yet.")).to_be_visible()
        run_keys(stack, "revoke", f"key_{first.split('-')[2]}")
        expect(dialog.get_by_role("alert")).to_contain_text("is not valid any more", timeout=10_000)
        expect(page.locator(".health")).not_to_contain_text("does not answer")
        dialog.get_by_label("API key").fill("sk-nonsense")
        page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_contain_text("does not know this key")
        dialog.get_by_label("API key").fill(second)
        page.keyboard.press("Enter")
        expect(page.locator(f"#job-{own}")).to_be_visible(timeout=10_000)


def test_a_key_of_few_requests_is_not_used_up_by_looking_on(keyed: str, stack: Stack, browser: Browser) -> None:
    secret = make_key(stack, "few", "--requests-per-minute", "6")
    asked: list[str] = []
    with visit(browser, keyed) as page:
        page.on("request", lambda request: "/v1/" in request.url and asked.append(request.url))
        page.get_by_role("dialog").get_by_label("API key").fill(secret)
        page.keyboard.press("Enter")
        with page.expect_response(lambda answer: answer.status == httpx.codes.TOO_MANY_REQUESTS, timeout=60_000):
            pass
        n, began_s = len(asked), time.monotonic()
        page.wait_for_timeout(12_000)  # four looks of those that the page makes else
        waited_s = time.monotonic() - began_s  # on a busy machine longer
        assert len(asked) - n <= 1 + waited_s // 10  # the service says when to come again: a request is free each ten seconds
        expect(page.locator(".health")).not_to_contain_text("does not answer")
