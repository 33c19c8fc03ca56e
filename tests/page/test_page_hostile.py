"""The page in front of what hurts: markup and scripts wherever text can come from, and pages of other origins.

Whatever runs, asks another host or is stopped by the page's policy fails a test: ``visit`` looks on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser, Page, expect

from sightline.client import Client
from sightline.stack import Stack
from tests.browser import drop, visit
from tests.media import data_url, picture
from tests.page.conftest import PNG, ask

#: Each would call alert, or fetch, if it became markup, an address, or code.
PAYLOADS = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "<svg/onload=alert(1)>",
    "\"><iframe srcdoc='<script>parent.alert(1)</script>'>",
    "<a href='javascript:alert(1)' autofocus onfocus=alert(1)>x</a>",
    "</textarea><script>alert(1)</script>",
    "<style>@import 'https://evil.invalid/x.css';</style>",
    "<link rel=stylesheet href=https://evil.invalid/x.css>",
    "${alert(1)} {{constructor.constructor('alert(1)')()}}",
    "<math><mtext></mtext><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
    "javascript:alert(1)",
    "\u202eevil\u2066gnp.exe",
]
ALL = " ".join(PAYLOADS)
#: Elements that only a payload would have made.
_FOREIGN = """() => document.querySelectorAll(
  'iframe, math, mglyph, object, embed, [onerror], [onload], [onfocus], [autofocus], ' +
  'a[href^="javascript:"], main :is(style, script)'
).length"""


def is_whole(page: Page) -> None:
    page.wait_for_timeout(300)
    assert page.evaluate(_FOREIGN) == 0


def test_what_a_model_says_is_text(page, stack):
    ask(page, ALL)
    expect(page.locator("[data-part=text]")).to_contain_text(PAYLOADS[0], timeout=20_000)
    is_whole(page)
    for way in ("curl", "Python", "openai", "LangChain"):
        page.get_by_role("button", name=way, exact=True).click()
        expect(page.locator(".code code")).to_contain_text("alert(1)")
        is_whole(page)
    page.get_by_role("link", name="job →").click()
    expect(page.locator("[data-part=text]")).to_contain_text(PAYLOADS[1])
    is_whole(page)


def test_names_of_files_are_text(page):
    names = [payload.replace("/", "∕")[:120] + ".png" for payload in PAYLOADS]
    drop(
        page,
        *((name, picture(), PNG) for name in names),
        *((f"{name}.svg", b"<svg onload='alert(1)'/>", PNG) for name in names),
    )
    expect(page.locator(".thumb")).to_have_count(len(names))
    expect(page.locator(".refused")).to_be_visible()
    is_whole(page)
    page.locator("#prompt").fill(ALL)
    page.keyboard.press("Control+Enter")
    expect(page.locator(".file-row .state.succeeded").first).to_be_visible(timeout=30_000)
    is_whole(page)


def test_a_table_that_is_saved_holds_no_formula(page):
    drop(page, ('=HYPERLINK("http://evil.invalid").png', picture(), PNG), ("+1.png", picture(), PNG))
    page.locator("#prompt").fill("x")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".told .number", has_text="2 of 2 done")).to_be_visible(timeout=20_000)
    with page.expect_download() as saved:
        page.get_by_role("button", name="download CSV").click()
    lines = saved.value.path().read_text("utf-8-sig").splitlines()[1:]
    assert [line[:3] for line in lines] == ["\"'=", "\"'+"]


def test_metadata_errors_and_file_records_are_text(page, stack, client):
    client.submit({"prompt": ALL, "images": [data_url(picture())], "metadata": {payload[:60]: payload for payload in PAYLOADS}})
    failed = client.submit({"prompt": "!long " + ALL, "images": [data_url(picture())], "metadata": {"x": ALL}})
    failed.wait()
    for payload in PAYLOADS:
        client.upload(picture(), name=payload.replace("/", "∕"))
    for place in ("jobs", f"jobs?q={PAYLOADS[0]}", f"jobs/{failed.id}", f"jobs/{PAYLOADS[1]}", "settings", PAYLOADS[4]):
        page.goto(f"{stack.url}/#/{place}")
        page.wait_for_timeout(400)
        for fold in page.locator("main summary").all():
            fold.click()
        is_whole(page)


def test_what_a_receiver_answers_is_text(page, stack, client):
    class Rude(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = ALL.encode()
            self.send_response(500)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Rude)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    job = client.submit(
        {
            "prompt": "x",
            "images": [data_url(picture())],
            "webhook": {"url": f"http://127.0.0.1:{server.server_port}/{PAYLOADS[10]}"},
        }
    )
    job.wait()
    page.goto(f"{stack.url}/#/jobs/{job.id}")
    expect(page.locator(".delivery")).to_contain_text("attempt", timeout=10_000)
    expect(page.locator(".delivery .attempts li")).not_to_have_count(0, timeout=10_000)
    page.locator(".delivery summary").click()
    expect(page.locator(".attempts pre").first).to_contain_text(PAYLOADS[0])
    is_whole(page)
    server.shutdown()
    server.server_close()


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """A page of another origin, that tries to use the gateway through its reader's browser."""

    class Evil(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>elsewhere</title><p>hello")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Evil)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


#: What a foreign page can read of the gateway, frame of it, or run of it.
_REACH = """async (url) => {
  const got = [];
  const tried = async (name, act) => { try { if (await act()) got.push(name); } catch { /* as it should be */ } };
  const form = new FormData();
  form.append('file', new Blob(['x']), 'x.png');
  await tried('read jobs', async () => (await fetch(`${url}/v1/jobs`)).ok);
  await tried('read the page', async () => (await fetch(`${url}/`)).ok);
  const json = {method: 'POST', body: '{}', headers: {'content-type': 'application/json'}};
  await tried('post json', () => fetch(`${url}/v1/jobs`, json));
  await tried('post a form', async () => (await fetch(`${url}/v1/files`, {method: 'POST', body: form})).ok);
  await tried('load its modules', () => import(`${url}/page/api.js`));
  const frame = document.createElement('iframe');
  const loaded = new Promise((done) => { frame.onload = done; setTimeout(done, 1500); });
  frame.src = `${url}/`;
  document.body.append(frame);
  await loaded;
  await tried('look into a frame of it', () => frame.contentWindow.document.body.innerHTML);
  const opened = open(`${url}/`);
  await new Promise((done) => setTimeout(done, 1000));
  await tried('hold its window', () => opened && !opened.closed);
  return got;
}"""


def test_a_page_of_another_origin_gets_nothing(stack: Stack, browser: Browser, elsewhere: str):
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(elsewhere)
        assert page.evaluate(_REACH, stack.url) == []
        frame = next((one for one in page.frames if one != page.main_frame), None)
        assert frame is None or stack.url not in frame.url or frame.evaluate("document.querySelector('#app')") is None


def test_an_upload_that_is_opened_is_saved_and_does_not_run(stack: Stack, browser: Browser):
    gif = b"GIF89a/*" + b"\0" * 20 + b"*/=1;alert(1);<script>alert(1)</script>"
    with Client(stack.url) as client, visit(browser, stack.url) as page:
        file = client.upload(gif, name="x.html")
        with page.expect_download() as saved:
            page.evaluate("(address) => { location.href = address; }", f"{stack.url}/v1/files/{file.id}/content")
        assert saved.value.path().read_bytes() == gif
        assert (
            page.evaluate("(address) => import(address).then(() => 'ran', () => 'no')", f"/v1/files/{file.id}/content") == "no"
        )


def test_a_policy_is_there_to_stop_what_should_ever_get_in(stack: Stack, browser: Browser):
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(stack.url)
        told = page.evaluate("""async () => {
          const seen = [];
          addEventListener('securitypolicyviolation', (event) => seen.push(event.effectiveDirective));
          const image = new Image();
          image.src = 'https://evil.invalid/x.png';
          fetch('https://evil.invalid/').catch(() => {});
          try { document.body.innerHTML = '<b>x</b>'; seen.push('markup was made of a string'); } catch { seen.push('markup'); }
          try { (0, eval)('1'); } catch { /* as it should be */ }
          await new Promise((done) => setTimeout(done, 300));
          return seen;
        }""")
        assert {"img-src", "connect-src", "markup"} <= set(told)
        assert "markup was made of a string" not in told
