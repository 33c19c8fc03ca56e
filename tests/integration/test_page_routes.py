"""Who is given the page, and how: browsers at /, files with a policy, nothing where it is off."""

from __future__ import annotations

import gzip
import html
import json
import posixpath
import re

import httpx
import pytest

from shared.settings import Settings
from tests.conftest import make_settings
from tests.integration.conftest import gateway_for

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def facts_of(answer: httpx.Response) -> dict[str, object]:
    found = re.search(r'name="sightline" content="([^"]*)"', answer.text)
    assert found
    facts: dict[str, object] = json.loads(html.unescape(found[1]))
    return facts


def files_of(page: httpx.Response) -> list[str]:
    """Give the paths of the files that a page names."""
    return [f"/{path}" for path in re.findall(r'(?:href|src)="(page/[^"]+)"', page.text)]


async def test_a_browser_is_given_the_page_and_a_client_its_json(gateway):
    page = await gateway.get("/", headers=BROWSER)
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for accept in ("*/*", "application/json"):
        answer = await gateway.get("/", headers={"accept": accept})
        told = answer.json()
        assert (answer.status_code, told["name"], told["version"]) == (200, "Sightline", gateway.app.version)
        for path in told["urls"].values():
            assert (await gateway.get(path)).status_code in {200, 503}, path


async def test_the_documentation_is_a_page_that_asks_for_no_key(settings: Settings):
    keyed = make_settings(redis_url=settings.redis_url, blobs_url=settings.blobs_url, require_keys=True, root_path="/vision")
    async with gateway_for(keyed) as gateway:
        page = await gateway.get("/docs")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert any(path.endswith("/docs/app.js") for path in files_of(page))
        for path in files_of(page):
            assert (await gateway.get(path)).status_code == 200, path
        assert (await gateway.get("/")).json()["urls"]["docs"] == "/vision/docs"


async def test_only_files_of_this_origin_may_run(gateway):
    for path in ("/", "/docs", "/page/app.js", "/page/docs/app.js", "/page/tokens.css", "/page/samples/1.jpg"):
        answer = await gateway.get(path, headers=BROWSER)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"


async def test_files_are_packed_and_asked_for_again_by_their_tags(gateway):
    plain = await gateway.get("/page/app.js", headers={"accept-encoding": "identity"})
    packed = await gateway.get("/page/app.js", headers={"accept-encoding": "gzip"})
    assert plain.headers["content-type"] == "text/javascript; charset=utf-8"
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) == len(gzip.compress(plain.content, 9))
    again = await gateway.get("/page/app.js", headers={"if-none-match": f'"other", W/{plain.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("place", ["/", "/docs"])
async def test_a_page_names_all_that_it_needs_and_a_second_visit_asks_for_none_of_it(gateway: httpx.AsyncClient, place: str):
    page = await gateway.get(place, headers=BROWSER)
    files = files_of(page)
    assert page.headers["cache-control"] == "no-cache"
    assert len(files) == len(set(files))
    for path in files:
        answer = await gateway.get(path)
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable", path
        for target in re.findall(r"""^(?:import|export)\b[^;]*?["'](\.[^"']+\.js)["']""", answer.text, flags=re.MULTILINE):
            assert posixpath.normpath(posixpath.join(posixpath.dirname(path), target)) in files, (path, target)


async def test_all_that_the_first_view_needs_weighs_less_than_120_kb(gateway: httpx.AsyncClient):
    page = await gateway.get("/", headers=BROWSER)
    weights = {
        path: int((await gateway.get(path, headers=BROWSER | {"accept-encoding": "gzip"})).headers["content-length"])
        for path in ("/", *files_of(page), *(f"/page/samples/{n}.jpg" for n in (1, 2, 3)))
    }
    assert len(weights) > 40
    assert sum(weights.values()) <= 120_000


async def test_files_of_another_release_are_served_and_not_kept(gateway: httpx.AsyncClient):
    """While gateways are replaced one by one, a page and its files may come from two of them."""
    own = await gateway.get("/page/app.js")
    other = await gateway.get("/page/r0123456789ab/app.js")
    assert (other.content, other.headers["cache-control"]) == (own.content, "no-cache")
    for path in ("/page/r0123456789ab/nothing.js", "/page/r0123456789ab/index.html", "/page/other/app.js"):
        assert (await gateway.get(path)).status_code == 404, path


@pytest.mark.parametrize(
    "path", ["/page/", "/page/nothing.js", "/page/../routes.py", "/page/%2e%2e/routes.py", "/page/vendor/preact.d.ts"]
)
async def test_nothing_but_the_page_s_files_is_served(gateway, path):
    answer = await gateway.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_the_description_is_packed_and_asked_for_again_by_its_tag(gateway):
    packed = await gateway.get("/openapi.json", headers={"accept-encoding": "gzip"})
    assert (packed.headers["content-type"], packed.headers["content-encoding"]) == ("application/json", "gzip")
    assert packed.json()["openapi"].startswith("3.1")
    assert int(packed.headers["content-length"]) < 30_000
    again = await gateway.get("/openapi.json", headers={"if-none-match": packed.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_the_page_is_not_part_of_the_api_s_description(gateway):
    assert not [
        path for path in (await gateway.get("/openapi.json")).json()["paths"] if path in {"/", "/docs"} or "page" in path
    ]


async def test_a_setting_turns_it_off(settings: Settings):
    off = make_settings(redis_url=settings.redis_url, blobs_url=settings.blobs_url, page="false")
    async with gateway_for(off) as gateway:
        for path in ("/docs", "/page/app.js"):
            assert (await gateway.get(path, headers=BROWSER)).status_code == 404
        told = (await gateway.get("/", headers=BROWSER)).json()
        assert (told["name"], told["urls"]["openapi"], "docs" in told["urls"]) == ("Sightline", "/openapi.json", False)
        assert told["limits"] == {"max_upload_bytes": off.max_upload_bytes, "max_image_bytes": off.max_image_bytes}


@pytest.mark.parametrize(("page", "read_only"), [("true", False), ("read-only", True)])
async def test_the_page_is_told_what_the_settings_say(settings: Settings, page, read_only):
    own = make_settings(redis_url=settings.redis_url, blobs_url=settings.blobs_url, page=page, max_upload_bytes=12_345)
    async with gateway_for(own) as gateway:
        facts = facts_of(await gateway.get("/", headers=BROWSER))
    assert (facts["read_only"], facts["max_upload_bytes"], facts["keys"]) == (read_only, 12_345, False)


async def test_the_page_asks_for_no_key_and_shows_nothing_that_needs_one(settings: Settings):
    keyed = make_settings(redis_url=settings.redis_url, blobs_url=settings.blobs_url, require_keys=True)
    async with gateway_for(keyed) as gateway:
        page = await gateway.get("/", headers=BROWSER)
        assert (page.status_code, facts_of(page)["keys"]) == (200, True)
        assert (await gateway.get("/v1/queue")).status_code == 401


async def test_an_upload_never_runs_in_our_origin(gateway):
    picture = await gateway.get("/page/samples/1.jpg")
    sent = await gateway.post("/v1/files", files={"file": ("x.html", picture.content, "text/html")})
    content = await gateway.get(f"/v1/files/{sent.json()['id']}/content")
    assert content.headers["content-type"] == "image/jpeg"
    assert content.headers["content-disposition"] == "attachment"
    assert "sandbox" in content.headers["content-security-policy"]
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    refused = await gateway.post("/v1/files", files={"file": ("x.svg", drawing, "image/svg+xml")})
    assert (refused.status_code, refused.json()["error"]["code"]) == (415, "unsupported_media")
