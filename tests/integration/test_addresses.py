"""No address that a stranger names leads anywhere private: written out, behind a redirect, or behind a name that changes.

Each is asked for through the media loader. Only the test's site, on 127.0.0.1, is allowed. An audit hook writes down every
connection that this process tries, and a canary on 127.0.0.2 hears nothing.
"""

from __future__ import annotations

import itertools
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address
from typing import Any

import httpx
import pytest
import ssrfguard

from shared.address_guard import make_client
from shared.blobs import Blobs
from shared.errors import MediaUnreachable
from shared.messages import ImagePart, Message, TextPart
from shared.settings import Settings
from tests.conftest import make_settings
from tests.double import DoubleEngine
from tests.integration.conftest import Reply, Site
from tests.media import picture
from worker.media.loader import MediaLoader

#: As a registry, a cloud or a protocol gives them out.
_BAD = """
    127.0.0.2 127.255.255.254 0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1
    100.64.0.1 100.127.255.255 169.254.0.1 192.0.0.1 192.0.2.1 192.88.99.1 198.18.0.1 198.51.100.1 203.0.113.1
    224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 169.254.169.254 169.254.170.2 100.100.100.200 192.0.0.192
    168.63.129.16 ::1 :: fe80::1 fc00::1 fd00:ec2::254 fd20:ce::254 fec0::1 ff02::1 2001:db8::1 3fff::1 100::1
    5f00::1 4000::1 ::ffff:127.0.0.2 ::ffff:10.0.0.1 ::127.0.0.2 ::ffff:0:127.0.0.2 64:ff9b::7f00:2
    64:ff9b::a9fe:a9fe 64:ff9b:1::1 2002:7f00:2::1 2002:a00:1:: 2001:0:4136:e378:8000:63bf:80ff:fffd
"""
BAD = _BAD.split()
#: The canary's address in other spellings, and in disguise.
_SPELLED = """
    127.2 127.0.2 2130706434 0x7f000002 0x7f.0.0.2 0x7f.2 0177.0.0.2 017700000002 127.0.0.2. %31%32%37.0.0.2
    127.0.0.002 ①②⑦.0.0.2 127。0。0。2 [::ffff:127.0.0.2] [::ffff:7f00:2] [0:0:0:0:0:ffff:7f00:2] [::1%25lo]
    example.com@127.0.0.2 127.0.0.1@127.0.0.2 127.0.0.1:x@127.0.0.2 127.0.0.2\\@127.0.0.1 127.0.0.1\\@127.0.0.2
    127.0.0.1#@127.0.0.2
"""
SPELLED = _SPELLED.split()


class Canary:
    """Listens where nobody may come."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.2", 0))
        self._server.setblocking(False)  # noqa: FBT003  # the library's own
        self.port: int = self._server.getsockname()[1]

    def heard(self) -> bool:
        try:
            self._server.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self._server.close()


_connections: list[Any] = []


def _note(event: str, args: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(args[1], tuple):
        _connections.append(args[1][0])


sys.addaudithook(_note)  # for good: Python takes no hook back


@pytest.fixture
def connections() -> list[Any]:
    """Give the addresses that sockets of this process try to reach from now on."""
    _connections.clear()
    return _connections


@pytest.fixture
def canary() -> Iterator[Canary]:
    canary = Canary()
    yield canary
    canary.close()


class Names:
    """Stands in for the resolver: every look-up of a name takes its next answer."""

    def __init__(self) -> None:
        self.answers: dict[str, Iterator[list[str]]] = {}
        self.asked: list[str] = []

    def getaddrinfo(self, host: str, port: int, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        self.asked.append(host)
        try:
            found = [str(ip_address(host))]
        except ValueError:
            if host not in self.answers:
                raise socket.gaierror(socket.EAI_NONAME, "no such name") from None
            found = next(self.answers[host])
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (a, port, 0, 0))
            if ":" in a
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port))
            for a in found
        ]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    return names


@pytest.fixture
async def loader(settings: Settings, blobs: Blobs) -> AsyncIterator[MediaLoader]:
    only = make_settings(redis_url=settings.redis_url, allow_networks="127.0.0.1/32")
    async with MediaLoader(only, blobs, DoubleEngine(settings).limits) as loader:
        yield loader


async def fetch(loader: MediaLoader, url: str) -> None:
    content = [ImagePart(type="image", image=url), TextPart(type="text", text="x")]
    async with loader.load([Message(role="user", content=content)], on_stage=lambda _: None, timings_ms={}):
        pass


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


async def test_no_bad_address_is_contacted(loader: MediaLoader, site: Site, canary: Canary, connections: list[Any]) -> None:
    hosts = [*map(bracketed, BAD), *SPELLED]
    refused = 0
    for host in hosts:
        with pytest.raises(MediaUnreachable) as caught:
            await fetch(loader, f"http://{host}:{canary.port}/")
        assert caught.value.message == MediaUnreachable().message, host
        refused += 1
    assert refused == len(hosts) >= 70
    assert set(connections) <= {"127.0.0.1"}  # where a parser may take what stands before @ for the host
    assert not canary.heard()
    assert site.asked == []


async def test_no_redirect_leads_to_a_bad_address(
    loader: MediaLoader, site: Site, canary: Canary, connections: list[Any]
) -> None:
    for host in [*map(bracketed, BAD), *SPELLED]:
        site.replies = [Reply(302, headers={"location": f"http://{host}:{canary.port}/".encode().decode("latin-1")})]
        with pytest.raises(MediaUnreachable):
            await fetch(loader, site.url)

    assert set(connections) == {"127.0.0.1"}
    assert not canary.heard()


async def test_no_name_leads_to_a_bad_address(
    loader: MediaLoader, site: Site, canary: Canary, connections: list[Any], names: Names
) -> None:
    for n, address in enumerate(BAD):
        alone, mixed = f"alone{n}.example", f"mixed{n}.example"
        names.answers |= {alone: itertools.repeat([address]), mixed: itertools.repeat(["127.0.0.1", address])}
        for name in (alone, mixed):
            with pytest.raises(MediaUnreachable):
                await fetch(loader, f"http://{name}:{canary.port}/")

    assert connections == []
    assert not canary.heard()


async def test_a_name_that_changes_its_answer_is_pinned_or_refused(
    loader: MediaLoader, site: Site, canary: Canary, connections: list[Any], names: Names
) -> None:
    site.replies = [Reply(body=picture())]
    port = site.url.rpartition(":")[2]
    names.answers["good.example"] = itertools.cycle([["127.0.0.1"], ["127.0.0.2"]])
    outcomes = []
    for _ in range(20):
        try:
            await fetch(loader, f"http://good.example:{port}/a.png")
            outcomes.append("fetched")
        except MediaUnreachable:
            outcomes.append("refused")

    assert outcomes == ["fetched", "refused"] * 10
    assert names.asked.count("good.example") == 20  # once for each fetch: what was checked is what is contacted
    assert set(connections) == {"127.0.0.1"}
    assert not canary.heard()


async def test_good_addresses_are_fetched(loader: MediaLoader, site: Site, names: Names) -> None:
    site.replies = [Reply(302, headers={"location": "/b.png"}), *[Reply(body=picture())] * 4]
    port = site.url.rpartition(":")[2]
    names.answers = {"images.example": itertools.repeat(["127.0.0.1"]), "xn--r8jz45g.jp": itertools.repeat(["127.0.0.1"])}

    for host in ("127.0.0.1", "images.example", "例え.jp", "IMAGES.example."):
        names.answers["images.example."] = itertools.repeat(["127.0.0.1"])
        await fetch(loader, f"http://{host}:{port}/a.png")

    assert len(site.asked) == 5
    assert site.asked[2].headers["host"] == f"images.example:{port}"


async def test_hosts_may_be_listed(site: Site, names: Names) -> None:
    port = site.url.rpartition(":")[2]
    names.answers = {name: itertools.repeat(["127.0.0.1"]) for name in ("a.example", "evil.example", "sub.evil.example")}

    async def ask(host: str, **lists: str) -> int:
        async with make_client(make_settings(**lists), timeout_s=2) as client:
            return (await client.get(f"http://{host}:{port}/")).status_code

    assert await ask("a.example", deny_hosts="*.evil.example") == 200
    assert await ask("a.example", allow_hosts="*.example") == 200
    for host, lists in {
        "evil.example": {"deny_hosts": "*.evil.example"},
        "sub.evil.example": {"deny_hosts": "x.example, *.EVIL.example"},
        "EVIL.example.": {"deny_hosts": "evil.example"},
        "a.example": {"allow_hosts": "b.example"},
    }.items():
        with pytest.raises(ssrfguard.SSRFGuardError):
            await ask(host, **lists)
    site.replies = [Reply(302, headers={"location": f"http://evil.example:{port}/"})]
    async with make_client(make_settings(deny_hosts="evil.example"), timeout_s=2, max_redirects=3) as client:
        with pytest.raises(ssrfguard.SSRFGuardError):
            await client.get(f"http://a.example:{port}/")


@pytest.mark.parametrize(
    ("asked", "location", "refused"),
    [
        ("https://a.example/", "http://a.example/", True),
        ("https://a.example/", "//b.example/", False),
        ("https://a.example/", "/x", False),
        ("http://a.example/", "http://b.example/", False),
        ("http://a.example/", "https://b.example/", False),
    ],
)
async def test_a_redirect_never_leaves_https(asked: str, location: str, refused: bool) -> None:  # noqa: FBT001
    answer = httpx.Response(302, headers={"location": location}, request=httpx.Request("GET", asked))
    async with make_client(make_settings(), timeout_s=2, max_redirects=3) as client:
        hook, *_ = client.event_hooks["response"]
        if refused:
            with pytest.raises(ssrfguard.SSRFGuardError):
                await hook(answer)
        else:
            await hook(answer)
