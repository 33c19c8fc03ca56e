"""Trying the page: files in by every way, the text as it is generated, Stop, and what happens when parts die meanwhile."""

from __future__ import annotations

import re

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser import drop
from tests.media import picture
from tests.page.conftest import PNG, ask

#: Notes each time something is added to the text.
_COUNT = """() => {
  globalThis.additions = 0;
  new MutationObserver((seen) => {
    globalThis.additions += seen.filter((one) => one.target.dataset?.part === 'text' && one.addedNodes.length).length;
  }).observe(document.querySelector('main'), {childList: true, subtree: true});
}"""


def test_the_text_grows_while_it_is_generated_and_stop_keeps_it(page, stack):
    page.evaluate(_COUNT)
    words = " ".join(f"词{n}" for n in range(200))
    ask(page, f"!speak 0.05 {words}")
    expect(page.locator(".stateline .state.running")).to_have_text("◐generating")
    while page.evaluate("globalThis.additions") <= 5:  # a function to wait for would be code in a string
        page.wait_for_timeout(50)
    page.keyboard.press("Escape")
    expect(page.locator(".stateline .state.cancelled")).to_be_visible(timeout=10_000)
    job = page.request.get(f"{stack.url}/v1/jobs?limit=1").json()["data"][0]
    assert (job["status"], job["output"]["partial"]) == ("cancelled", True)
    expect(page.locator("[data-part=text]")).to_have_text(job["output"]["text"])
    expect(page.locator(".receipt")).to_contain_text("stopped: this is what there was")


def test_a_file_that_cannot_be_taken_says_why_before_anything_is_sent(page):
    sent = []
    page.on("request", lambda asked: asked.method == "POST" and sent.append(asked.url))
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'><script>alert(2)</script></svg>"
    drop(
        page,
        ("猫.svg", svg, "image/png"),
        ("x.pdf", b"%PDF-1.7", "image/jpeg"),
        ("empty.png", b"", PNG),
        ("big.png", picture() + bytes(200_000), PNG),
        ("ok.png", picture(), PNG),
    )
    refused = page.locator(".refused li")
    expect(refused).to_have_count(4)
    expect(refused.nth(0)).to_contain_text("it is text, and neither a picture")
    expect(refused.nth(1)).to_contain_text("it is a PDF")
    expect(refused.nth(2)).to_contain_text("empty")
    expect(refused.nth(3)).to_contain_text("at most 100 kB are taken")
    expect(page.locator(".thumb")).to_have_count(1)
    assert sent == []


def test_an_error_is_told_with_its_words_and_its_code(page):
    ask(page, "!long")
    box = page.locator(".failed-box")
    expect(box).to_contain_text("prompt_too_long", timeout=20_000)
    expect(page.locator(".stateline .state.failed")).to_be_visible()


def test_many_files_can_be_one_question_or_one_each(page):
    drop(page, ("a.png", picture(), PNG), ("b.png", picture(), PNG))
    page.get_by_label("one question about all of them together").check()
    page.get_by_label("prompt", exact=True).fill("both")
    page.get_by_role("button", name="Describe").click()
    expect(page.locator(".stateline .state.succeeded")).to_be_visible(timeout=20_000)
    page.get_by_label("one question about all of them together").uncheck()
    page.get_by_role("button", name="Describe 2 files").click()
    expect(page.locator(".told .number", has_text="2 of 2 done")).to_be_visible(timeout=20_000)


def test_stop_ends_all_files_of_a_folder(page):
    ask(page, "!slow 30", *(f"{n}.png" for n in range(6)))
    expect(page.locator(".file-row .state.running").first).to_be_visible(timeout=20_000)
    page.keyboard.press("Escape")
    expect(page.locator(".told .number", has_text="6 of 6 done")).to_be_visible(timeout=20_000)
    expect(page.locator(".file-row .state.cancelled")).to_have_count(6)


def test_a_pasted_picture_an_address_and_a_photograph_are_taken(page):
    page.evaluate("""async () => {
      const data = new DataTransfer();
      const canvas = Object.assign(document.createElement('canvas'), {width: 20, height: 10});
      canvas.getContext('2d').fillRect(0, 0, 20, 10);
      data.items.add(new File([await new Promise((done) => canvas.toBlob(done))], 'image.png', {type: 'image/png'}));
      dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true, cancelable: true}));
    }""")
    expect(page.locator(".thumb")).to_have_count(1)
    field = page.get_by_label("address of a picture or video")
    field.fill("javascript:alert(1)")
    field.press("Enter")
    expect(page.get_by_text("An address begins with")).to_be_visible()
    field.fill("https://images.invalid/a.mp4")
    field.press("Enter")
    expect(page.locator(".thumb")).to_have_count(2)
    page.get_by_role("button", name="photograph").click()
    page.get_by_role("button", name="take").click()
    expect(page.locator(".thumb")).to_have_count(3)
    expect(page.locator(".thumb").nth(2)).to_have_attribute("title", re.compile(r"photo-.*\.jpg"))


@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 7, 8])
def test_boxes_are_drawn_where_the_model_saw_them_however_the_camera_was_held(page, stack, client, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    drop(page, ("turned.jpg", picture(size=(640, 400), image_format="JPEG", exif=exif.tobytes()), "image/jpeg"))
    page.locator("#prompt").fill('[{"bbox_2d": [20, 30, 220, 130], "label": "海"}, {"point_2d": [50, 60], "label": "点"}]')
    page.keyboard.press("Control+Enter")
    expect(page.locator(".stateline .state.succeeded")).to_be_visible(timeout=20_000)
    job = client.request("GET", "/v1/jobs", params={"limit": 1})["data"][0]
    wide, high = job["output"]["media"][0]["shown_px"]
    assert (wide > high) == (orientation < 5)
    upright = page.locator(".shown img").evaluate("(image) => [image.naturalWidth, image.naturalHeight]")
    drawn = page.locator(".shown rect").evaluate("(one) => ['x', 'y', 'width', 'height'].map((n) => +one.getAttribute(n))")
    expected = [20 / wide * upright[0], 30 / high * upright[1], 200 / wide * upright[0], 100 / high * upright[1]]
    assert drawn == pytest.approx(expected, abs=2)  # the API tells whole pixels
    expect(page.locator(".shown circle")).to_have_count(1)
    page.get_by_role("button", name="2 boxes").click()
    expect(page.locator(".shown rect")).to_have_count(0)


def test_what_was_asked_is_remembered(page):
    ask(page, "remember me")
    expect(page.locator(".earlier li")).to_have_count(1, timeout=20_000)
    page.reload()
    expect(page.get_by_label("prompt", exact=True)).to_have_value("remember me")
    expect(page.locator(".earlier li")).to_have_count(1)


def test_a_worker_that_dies_while_somebody_watches_is_told_of_and_the_job_ends(page, stack):
    ask(page, "!speak 0.05 " + " ".join(f"w{n}" for n in range(120)))
    expect(page.locator("[data-part=text]")).to_contain_text("w3", timeout=10_000)
    stack.processes["worker-0"].kill()
    stack.processes["worker-0"].wait()
    stack.respawn("worker-0")
    expect(page.locator(".stateline")).to_contain_text("attempt 2: the one before did not end", timeout=60_000)
    expect(page.locator(".stateline .state.succeeded")).to_be_visible(timeout=60_000)
    text = page.locator("[data-part=text]").inner_text()
    assert (text.count("w3 "), text.endswith("w119")) == (1, True)
    page.get_by_role("link", name="job →").click()
    expect(page.locator(".lanes li")).to_have_count(2)
    expect(page.locator(".lanes li").first).to_contain_text("given back")


def test_a_gateway_that_restarts_is_found_again_by_itself(page, stack, client):
    ask(page, "!speak 0.1 " + " ".join(f"w{n}" for n in range(100)))
    expect(page.locator("[data-part=text]")).to_contain_text("w3", timeout=10_000)
    stack.processes["gateway"].terminate()
    stack.processes["gateway"].wait()
    expect(page.locator(".stateline")).to_contain_text("reconnecting")
    expect(page.locator(".health")).to_contain_text("does not answer")
    stack.respawn("gateway")
    expect(page.locator(".stateline .state.succeeded")).to_be_visible(timeout=60_000)
    text = page.locator("[data-part=text]").inner_text()
    assert [word for word in text.split() if word.startswith("w")] == [f"w{n}" for n in range(100)]
    expect(page.locator(".health")).to_contain_text("ready")
