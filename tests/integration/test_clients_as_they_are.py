"""Clients, proxies and probes as they are: each has a habit of its own, and all of them get their answer."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from openai import AsyncOpenAI

from shared.settings import Settings
from tests.conftest import make_settings
from tests.integration.conftest import Worker, until
from tests.integration.served import served
from tests.media import data_url, picture

CHAT = {
    "model": "qwen-vl",
    "messages": [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": data_url(picture())}}, {"type": "text", "text": "请描述"}],
        }
    ],
}
SAID = "1 x 532x392 #dc1e1e; 请描述"


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        yield client


async def send_raw(url: str, *pieces: bytes) -> bytes:
    """Send bytes as they are, with a pause after each piece, then a last request, and give what comes back until its end."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.write(b"GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
BODY = json.dumps(CHAT).encode()
PLAIN = b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


@pytest.mark.parametrize("rest", [PLAIN, CHUNKED], ids=["length", "chunks"])
@pytest.mark.parametrize("cut", [None, 1, 7, 60, 150, 300], ids=str)
async def test_an_offer_of_http2_is_passed_over(rest: bytes, cut: int | None, url: str, worker: Worker) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + OFFER
    whole = head + rest

    answer = await send_raw(url, *([whole] if cut is None else [whole[:cut], whole[cut:]]))

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert SAID.encode() in answer or json.dumps(SAID)[1:-1].encode() in answer


async def test_what_follows_an_offer_is_read_too(url: str) -> None:
    asked = b"GET /version HTTP/1.1\r\nHost: localhost\r\n"

    answer = await send_raw(url, asked + OFFER + b"\r\n" + asked + b"Upgrade: websocket\r\nConnection: upgrade\r\n\r\n")

    assert answer.count(b"HTTP/1.1 200 ") == 3


@pytest.mark.parametrize("method", [b"CONNECT localhost:1", b"CONNECT /v1/jobs"])
async def test_nobody_is_connected_to_others(method: bytes, url: str) -> None:
    assert (await send_raw(url, method + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")).startswith(b"HTTP/1.1 40")


@pytest.mark.parametrize(
    "kind",
    [
        None,
        "",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-8",
        "application/vnd.api+json",
        "Application/JSON",
        "application/octet-stream",
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/jobs"])
async def test_json_is_read_whatever_it_is_called(kind: str | None, path: str, http: httpx.AsyncClient, worker: Worker) -> None:
    body = CHAT if "chat" in path else {"prompt": "x", "images": [data_url(picture())]}
    headers = {} if kind is None else {"content-type": kind}

    answer = await http.post(path, content=json.dumps(body).encode(), headers=headers)

    assert answer.status_code in {200, 202}, answer.text


async def test_a_form_that_is_no_json_is_refused_with_what_is_wanted(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/jobs", data={"prompt": "x"})

    assert answer.status_code == 400
    assert "application/json is wanted" in answer.json()["error"]["message"]


async def test_a_body_of_another_type_is_refused_with_what_is_wanted(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/chat/completions", content=BODY, headers={"content-type": "text/plain;charset=UTF-8"})

    assert answer.status_code == 400
    assert "application/json" in answer.json()["error"]["message"]


async def test_a_foreign_page_still_posts_no_form(http: httpx.AsyncClient) -> None:
    for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
        answer = await http.post("/v1/jobs", content=b"{}", headers={"content-type": "text/plain", **headers})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_site")


@pytest.mark.parametrize("path", ["/v1/models/", "//v1/models", "/v1//models//", "/health", "/health/", "/version", "/livez/"])
async def test_paths_are_read_with_and_without_slashes(path: str, http: httpx.AsyncClient) -> None:
    assert (await http.get(http.base_url.copy_with(raw_path=path.encode()))).status_code == 200


async def test_a_base_address_may_end_in_a_slash(url: str, worker: Worker) -> None:
    async with AsyncOpenAI(base_url=f"{url}//v1//", api_key="EMPTY", max_retries=0) as client:
        messages: Any = CHAT["messages"]
        answer = await client.chat.completions.create(model="qwen-vl", messages=messages)

    assert answer.choices[0].message.content == SAID


async def test_head_is_answered_where_get_is(http: httpx.AsyncClient, worker: Worker) -> None:
    job = (await http.post("/v1/jobs", json={"prompt": "x", "images": [data_url(picture())]})).json()
    for path in ("/livez", "/metrics", "/v1/models", "/v1/jobs", job["urls"]["self"], job["urls"]["events"], "/v1/events"):
        head = await http.head(path)
        assert (head.status_code, head.content) == (200, b""), path
    assert (await http.head("/v1/jobs/job_0")).status_code == 404
    assert (await http.head("/v1/chat/completions")).status_code == 405
    got = await http.get("/v1/models")
    assert (await http.head("/v1/models")).headers["content-length"] == got.headers["content-length"]


async def test_options_names_the_methods(http: httpx.AsyncClient) -> None:
    answer = await http.options("/v1/chat/completions")

    assert (answer.status_code, answer.headers["allow"]) == (204, "POST, OPTIONS")
    assert "access-control-allow-origin" not in answer.headers
    assert (await http.options("/nowhere")).status_code == 404


PREFLIGHT = {
    "origin": "http://localhost:3000",
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-os",
}


@pytest.mark.parametrize(
    ("allowed", "origin", "is_let_in"),
    [
        ("*", "http://localhost:3000", True),
        ("http://localhost:3000,https://a.example", "https://a.example", True),
        ("http://localhost:3000", "https://evil.example", False),
        ("", "https://a.example", False),
    ],
)
async def test_pages_of_allowed_origins_may_ask(allowed: str, origin: str, is_let_in: bool, settings: Settings) -> None:  # noqa: FBT001
    changed = settings.model_copy(update={"allow_origins": tuple(part for part in allowed.split(",") if part)})
    async with served(changed, batches=False) as url, httpx.AsyncClient(base_url=url) as http:
        answers = [
            await http.options("/v1/chat/completions", headers=PREFLIGHT | {"origin": origin}),
            await http.get("/v1/models", headers={"origin": origin}),
            await http.get("/v1/jobs/job_0", headers={"origin": origin}),  # errors, too
        ]
        form = await http.post(
            "/v1/jobs", content=b"{}", headers={"content-type": "application/x-www-form-urlencoded", "origin": origin}
        )

    allowed_for = [answer.headers.get("access-control-allow-origin") for answer in answers]
    assert allowed_for == ([("*" if allowed == "*" else origin)] * 3 if is_let_in else [None] * 3)
    assert form.json()["error"]["code"] == ("empty_prompt" if is_let_in else "cross_site")


@pytest.mark.parametrize("is_cut_off", [True, False])
async def test_a_proxy_may_show_it_under_a_path(is_cut_off: bool, settings: Settings, worker: Worker) -> None:  # noqa: FBT001
    prefix = "" if is_cut_off else "/vision"
    changed = settings.model_copy(update={"root_path": "/vision"})
    async with served(changed, batches=False) as url, httpx.AsyncClient(base_url=url) as http:
        answer = await http.post(f"{prefix}/v1/jobs", json={"prompt": "x", "images": [data_url(picture())]})
        links = [answer.headers["location"], *answer.json()["urls"].values()]
        read = [(await http.get(link.removeprefix("/vision") if is_cut_off else link)).status_code for link in links[:2]]
        described = (await http.get(f"{prefix}/openapi.json")).json()
        upload = await http.post(f"{prefix}/v1/files", files={"file": ("a.png", picture())})

    assert all(link.startswith("/vision/v1/jobs/job_") for link in links)
    assert read == [200, 200]
    assert described["servers"] == [{"url": "/vision"}]
    assert upload.status_code == 201
    assert "/vision2" not in links


@pytest.mark.parametrize("proxies", ["", "127.0.0.0/8"])
async def test_only_named_proxies_are_believed(proxies: str, settings: Settings) -> None:
    from api.main import create_app

    changed = make_settings(redis_url=settings.redis_url, blobs_url=settings.blobs_url, trusted_proxies=proxies)
    app, seen = create_app(changed), []

    @app.get("/whose")
    async def whose(request: Any) -> None: ...

    @app.middleware("http")
    async def note(request: Any, go_on: Any) -> Any:
        seen.append((request.client.host, request.url.scheme))
        return await go_on(request)

    async with served(changed, app, batches=False) as url, httpx.AsyncClient(base_url=url) as http:
        await http.get("/livez", headers={"x-forwarded-for": "203.0.113.7", "x-forwarded-proto": "https"})

    assert seen == [("203.0.113.7", "https") if proxies else ("127.0.0.1", "http")]


async def test_packed_bodies_are_unpacked(http: httpx.AsyncClient, worker: Worker) -> None:
    half = len(BODY) // 2
    for packed in (gzip.compress(BODY), gzip.compress(BODY[:half]) + gzip.compress(BODY[half:])):
        headers = {"content-encoding": "gzip", "content-type": "application/json"}
        answer = await http.post("/v1/chat/completions", content=packed, headers=headers)
        assert answer.json()["choices"][0]["message"]["content"] == SAID

    form = httpx.Request("POST", "http://x/v1/files", files={"file": ("a.png", picture())})
    headers = {"content-encoding": "gzip", "content-type": form.headers["content-type"]}
    assert (await http.post("/v1/files", content=gzip.compress(form.read()), headers=headers)).status_code == 201


@pytest.mark.parametrize(
    ("body", "encoding", "status", "code"),
    [
        (gzip.compress(b" " * 40_000_000), "gzip", 413, "body_too_large"),
        (gzip.compress(BODY)[:-9], "gzip", 400, "invalid_request"),
        (BODY, "gzip", 400, "invalid_request"),
        (b"", "gzip", 400, "invalid_request"),
        (BODY, "br", 415, "unsupported_encoding"),
        (gzip.compress(gzip.compress(BODY)), "gzip, gzip", 415, "unsupported_encoding"),
    ],
    ids=["bomb", "cut", "plain", "empty", "br", "twice"],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/jobs"])
async def test_odd_packed_bodies_are_refused(
    path: str, body: bytes, encoding: str, status: int, code: str, http: httpx.AsyncClient
) -> None:
    headers = {"content-encoding": encoding, "content-type": "application/json"}

    answer = await http.post(path, content=body, headers=headers)

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('form-data; name="file"', ""),
        ("form-data; name=file", ""),
        ("form-data; name=\"file\"; filename*=UTF-8''%E5%9B%BE%22.png", '图".png'),
        ('form-data; name="file"; filename="a.png"', "a.png"),
        ('form-data; name="file"; filename=""', ""),
    ],
)
async def test_a_file_needs_no_name(disposition: str, name: str, http: httpx.AsyncClient) -> None:
    data = picture(size=(400, 400)) + bytes(100_000)  # longer than a field may be
    body = b"--b\r\nContent-Disposition: %b\r\nContent-Type: image/png\r\n\r\n%b\r\n--b--\r\n" % (disposition.encode(), data)

    answer = await http.post("/v1/files", content=body, headers={"content-type": "multipart/form-data; boundary=b"})

    assert answer.status_code == 201, answer.text
    assert (answer.json()["filename"], answer.json()["bytes"]) == (name, len(data))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/jobs?colour=red", "colour"),
        ("/v1/jobs?limit=5&Limit=6", "Limit"),
        ("/v1/files?order=asc", "order"),
        ("/v1/models?limit=5", "limit"),
        ("/v1/batches?status=completed", "status"),
    ],
)
async def test_a_wish_in_the_query_is_never_passed_over(path: str, name: str, http: httpx.AsyncClient) -> None:
    answer = await http.get(path)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "unsupported_parameter", name)
    assert name in error["message"]


@pytest.mark.parametrize(
    ("host", "status"), [("x", 200), ("api:8000", 200), ("my_gateway", 200), ("x.", 200), ("evil.example", 421), ("a b", 421)]
)
async def test_a_name_without_a_dot_is_nobodys_site(host: str, status: int, http: httpx.AsyncClient) -> None:
    assert (await http.get("/livez", headers={"host": host})).status_code == status


async def test_versions_look_like_versions(http: httpx.AsyncClient) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", (await http.get("/version")).json()["version"])


async def test_metrics_count_jobs_and_workers(http: httpx.AsyncClient, worker: Worker) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    await http.post("/v1/chat/completions", json=CHAT)

    async def samples() -> dict[Any, float]:
        families = text_string_to_metric_families((await http.get("/metrics")).text)
        return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}

    async def is_counted() -> bool:  # its heartbeat comes within a second
        return (await samples()).get(("sightline_workers", "qwen-vl", "ready")) == 1

    await until(is_counted)
    seen = await samples()
    assert seen["sightline_jobs", "queued"] == seen["sightline_jobs", "running"] == 0
    assert seen["sightline_jobs_ended_total", "interactive", "", "qwen-vl", "succeeded"] == 1
