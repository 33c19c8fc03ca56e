"""Addresses in the ways that people write them, of hosts that answer in the ways that hosts do, from a site on the loopback."""

from __future__ import annotations

import gzip
import http.server
import threading
from collections.abc import Iterator
from functools import partial
from itertools import cycle

from demo.scenes import scene
from tests.field.pictures import SCENES
from tests.field.table import Answer, Row, Service, says

FAMILY = "addresses"
#: How an address is written; ``{}`` is the site, as host and port.
WRITTEN: dict[str, str] = {
    "as it should be": "http://{}/a.png",
    "a scheme in capitals": "HTTP://{}/a.png",
    "a scheme with a capital": "Http://{}/a.png",
    "blanks around it": "  http://{}/a.png \n",
    "a line break in it": "http://{}/a\n.png",
    "a tab in it": "http://{}/a\t.png",
    "a blank in its path": "http://{}/my picture.png",
    "an encoded blank": "http://{}/my%20picture.png",
    "Chinese in its path": "http://{}/图片/红.png",
    "encoded Chinese": "http://{}/%E5%9B%BE%E7%89%87.png",
    "a signature": "http://{}/a.png?X-Amz-Signature=ab%2Bc&Expires=9&x=%E5",
    "a question of Chinese": "http://{}/a.png?名=红 色",
    "a fragment": "http://{}/a.png#top",
    "no ending": "http://{}/download?id=7",
    "another ending": "http://{}/a.mp4",
    "no path": "http://{}",
    "two slashes": "http://{}//a//b.png",
    "dots": "http://{}/x/../a.png",
    "brackets": "http://{}/a[1].png",
    "a plus": "http://{}/a+b.png",
    "an apostrophe": "http://{}/it's.png",
    "a bar": "http://{}/a|b.png",
    "a long question": "http://{}/a.png?x=" + 2000 * "y",
}
_REDIRECTS = {"301": 301, "303": 303, "307": 307, "308": 308}
_KINDS = {"text": "text/plain", "octets": "application/octet-stream", "jpeg": "image/jpeg", "upper": "IMAGE/PNG; charset=x"}
#: How a host answers.
HOSTS = (*_KINDS, *_REDIRECTS, "no-kind", "attached", "chunked", "closed", "gzip", "hops1", "hops5", "hops10")


class _Site(http.server.BaseHTTPRequestHandler):
    """Answers ``/HOW/…?seed=N`` in that way, and any other path plainly, with the picture of the seed."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        how, _, rest = self.path.strip("/").partition("/")
        seed = self.path.rpartition("seed=")[2]
        if how.startswith("hops") and how != "hops0":
            return self._answer(302, b"", Location=f"/hops{int(how[4:]) - 1}/{rest}")
        if how in _REDIRECTS:
            return self._answer(_REDIRECTS[how], b"moved", Location=f"http://{self.headers['host']}/x?seed={seed}")
        data = scene(int(seed)).png()
        if how == "gzip":
            return self._answer(200, gzip.compress(data), Content_Type="image/png", Content_Encoding="gzip")
        if how in {"chunked", "closed"}:
            return self._without_length(data, in_chunks=how == "chunked")
        if how == "no-kind":
            return self._answer(200, data)
        more = {"Content_Disposition": "attachment; filename=a.png"} if how == "attached" else {}
        return self._answer(200, data, Content_Type=_KINDS.get(how, "image/png"), **more)

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _without_length(self, data: bytes, *, in_chunks: bool) -> None:
        """Say no length: in chunks, or, as HTTP/1.0 has it, the end of the connection is that of the file."""
        self.send_response(200)
        self.send_header(*(("Transfer-Encoding", "chunked") if in_chunks else ("Connection", "close")))
        self.end_headers()
        pieces = [data[at : at + 1000] for at in range(0, len(data), 1000)]
        self.wfile.write(b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in (*pieces, b"")) if in_chunks else data)
        self.close_connection = not in_chunks


def rows() -> Iterator[Row]:
    """Give the rows; the site goes on for as long as this process."""
    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    seeds, doors, host = cycle(SCENES), cycle((_chat, _job, _response)), f"127.0.0.1:{site.server_port}"
    ways = {f"address: {name}": way.format(host) for name, way in WRITTEN.items()}
    ways |= {f"a host: {how}": f"http://{host}/{how}/a.png" for how in HOSTS}
    for name, url in ways.items():
        seed = next(seeds)
        refusal = "packed" if name.endswith(" gzip") else ""  # what it unpacks to, nobody knows before
        yield Row(FAMILY, name, partial(next(doors), _with_seed(url, seed)), says(scene(seed).truth), refusal)


def _with_seed(url: str, seed: int) -> str:
    """Put the seed where the site looks for it, without touching what is tried."""
    address, mark, fragment = url.partition("#")
    plain = address.rstrip()
    return f"{plain}{'&' if '?' in plain else '?'}seed={seed}{address[len(plain) :]}{mark}{fragment}"


def _chat(url: str, service: Service) -> Answer:
    return service.chat(url, "image")


def _job(url: str, service: Service) -> Answer:
    return service.job(url, "image")


def _response(url: str, service: Service) -> Answer:
    return service.responses(url)
