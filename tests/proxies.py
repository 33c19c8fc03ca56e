"""``python -m tests.proxies``: nginx and Caddy, as the documents have them, in front of two real gateways.

Both have to let events through as they happen, take an upload of 60 MB, tell the gateway who asks, and show clients no 5xx
while one gateway leaves. The last line on stdout is JSON; the exit code is 1 when something did not hold. Both programs have to
be installed.
"""

from __future__ import annotations

import asyncio
import io
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from shared.settings import ROOT
from sightline.ports import free_port, listens
from sightline.stack import Stack
from tests.media import data_url, picture
from tests.tls import Authority

SETTINGS = {
    "SIGHTLINE_ENGINE": "tests.double:DoubleEngine",
    "SIGHTLINE_DECODE_PROCESSES": "1",
    "SIGHTLINE_MIN_FREE_BYTES": "0",
    "SIGHTLINE_TRUSTED_PROXIES": "127.0.0.1/32",
}
JOB = {"prompt": "a", "images": [data_url(picture())]}
#: An uncompressed picture of 60 MB.
SIDE_PX = 4_600
CLIENTS, LEAVES_AFTER_S, GOES_ON_S = 8, 3.0, 8.0


def configured(text: str, upstreams: list[int]) -> str:
    """Put ports of this machine in the place of a configuration's gateways."""
    for n, port in enumerate(upstreams):
        text = text.replace(f"10.0.1.1{n}:8000", f"127.0.0.1:{port}")
    return text


def nginx(folder: Path, port: int, upstreams: list[int]) -> list[str]:
    """Write a configuration around the documents' lines, with a port and a certificate of this machine; gives the command."""
    pem = Authority(folder).issue("sightline.example")
    text = configured((ROOT / "deploy/nginx/sightline.conf").read_text(), upstreams).replace("443", f"127.0.0.1:{port}")
    text = text.replace("/etc/ssl/sightline.crt", str(pem)).replace("/etc/ssl/sightline.key", str(pem))
    spools = "".join(f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    own = f"daemon off; pid {folder}/pid; error_log stderr; events {{}}\nhttp {{ access_log off; {spools}\n{text}\n}}"
    (folder / "nginx.conf").write_text(own)
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def caddy(folder: Path, port: int, upstreams: list[int]) -> list[str]:
    """Write the documents' lines with another address, without a certificate; gives the command."""
    text = configured((ROOT / "deploy/caddy/Caddyfile").read_text(), upstreams)
    (folder / "Caddyfile").write_text(
        "{\n\tadmin off\n}\n" + text.replace("sightline.example {", f"http://127.0.0.1:{port} {{")
    )
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


PROXIES: dict[str, tuple[str, Callable[[Path, int, list[int]], list[str]]]] = {
    "nginx": ("https", nginx),
    "caddy": ("http", caddy),
}


@contextmanager
def running(name: str, upstreams: list[int]) -> Iterator[str]:
    """Run a proxy in front of these ports; gives its address."""
    scheme, configure = PROXIES[name]
    with tempfile.TemporaryDirectory() as folder, Path(folder, "log").open("wb") as log:
        port = free_port()
        process = subprocess.Popen(configure(Path(folder), port, upstreams), stdout=log, stderr=log)
        try:
            while not listens(process.pid, port) and process.poll() is None:
                time.sleep(0.05)
            assert process.poll() is None, Path(folder, "log").read_text()
            yield f"{scheme}://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


async def stream_s(http: httpx.AsyncClient) -> float:
    """Stream an answer whose words come a fifth of a second apart; gives the seconds between the first and the last piece."""
    content = [
        {"type": "text", "text": "!speak 0.2 " + "a " * 10},
        {"type": "image_url", "image_url": {"url": JOB["images"][0]}},
    ]
    body = {"model": "any", "stream": True, "messages": [{"role": "user", "content": content}]}
    body["model"] = (await http.get("/v1/models")).json()["data"][0]["id"]
    at_s = list[float]()
    async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            at_s += [time.monotonic()] if line.startswith("data: {") else []
    return at_s[-1] - at_s[0]


async def upload(http: httpx.AsyncClient) -> tuple[int, int]:
    """Upload a large picture; gives its size and the answer's status."""
    file = io.BytesIO()
    Image.new("RGB", (SIDE_PX, SIDE_PX)).save(file, "BMP")
    answer = await http.post("/v1/files", files={"file": ("large.bmp", file.getvalue())}, data={"purpose": "vision"})
    return len(file.getvalue()), answer.status_code


async def drain(http: httpx.AsyncClient, leave: Callable[[], None]) -> Counter[str]:
    """Ask and submit all the time while one gateway leaves; gives the answers by status."""
    until_s, answers = time.monotonic() + LEAVES_AFTER_S + GOES_ON_S, Counter[str]()

    async def ask() -> None:
        while time.monotonic() < until_s:
            for method, path, body in (("GET", "/v1/queue", None), ("POST", "/v1/jobs", JOB)):
                try:
                    answers[f"{method} {(await http.request(method, path, json=body)).status_code}"] += 1
                except httpx.TransportError as error:
                    answers[f"{method} {type(error).__name__}"] += 1

    asking = [asyncio.create_task(ask()) for _ in range(CLIENTS)]
    await asyncio.sleep(LEAVES_AFTER_S)
    leave()
    await asyncio.gather(*asking)
    return answers


def forwarded(name: str) -> str:
    """Say whom a proxy names as the one who asks, to a server that says it, where a client claims to be somebody else."""

    class Echo(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said = (self.headers["X-Forwarded-For"] or "").encode()
            self.send_response(200)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with running(name, [server.server_port] * 2) as url:
            said = httpx.get(f"{url}/", headers={"X-Forwarded-For": "192.0.2.6"}, verify=False, trust_env=False).text
        server.shutdown()
    return said


async def try_out(url: str, leave: Callable[[], None]) -> dict[str, Any]:
    """Send everything through one proxy; gives the figures."""
    async with httpx.AsyncClient(base_url=url, timeout=60, verify=False, trust_env=False) as http:
        await http.post("/v1/jobs", json=JOB)
        figures: dict[str, Any] = {"first_to_last_piece_s": round(await stream_s(http), 1)}
        figures["upload_bytes"], figures["upload_status"] = await upload(http)
        figures["while_one_leaves"] = dict(await drain(http, leave))
    return figures


def misses(figures: dict[str, Any]) -> list[str]:
    """Say what did not hold."""
    wrong = [] if figures["first_to_last_piece_s"] > 1 else ["events are held back"]
    wrong += [] if figures["upload_status"] in {200, 201} else [f"upload: {figures['upload_status']}"]
    wrong += [] if figures["forwarded_for"] == "127.0.0.1" else [f"X-Forwarded-For: {figures['forwarded_for']}"]
    bad = [kind for kind in figures["while_one_leaves"] if not kind.split()[1].startswith("2")]
    return wrong + [f"while one gateway leaves: {figures['while_one_leaves'][kind]} x {kind}" for kind in bad]


def main() -> int:
    """Try both; gives the exit code."""
    found, is_wrong = dict[str, Any](), False
    for name in PROXIES:
        with tempfile.TemporaryDirectory() as folder, Stack(Path(folder), settings=SETTINGS) as stack:
            stack.wait_ready()
            ports = [stack.port, free_port()]
            stack.environment["SIGHTLINE_PORT"] = str(ports[1])
            second = stack.spawn("gateway-2", "api.main")
            while not listens(second.pid, ports[1]):
                time.sleep(0.1)
            with running(name, ports) as url:
                found[name] = asyncio.run(try_out(url, lambda second=second: second.send_signal(signal.SIGTERM)))  # type: ignore[misc]
            found[name]["forwarded_for"] = forwarded(name)
        for line in misses(found[name]):
            is_wrong = True
            sys.stderr.write(f"BROKEN {name}: {line}\n")
    sys.stdout.write(json.dumps(found) + "\n")
    return 1 if is_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
