"""Which addresses may be contacted, as far as their text tells; names are judged when they are connected to."""

from __future__ import annotations

import socket

import pytest
import ssrfguard

from shared.address_guard import check_url, make_client, tidy_url
from shared.errors import AddressRefused
from shared.settings import Settings
from tests.conftest import make_settings

BAD = [
    # this machine
    *("http://127.0.0.1/", "http://127.1/", "http://127.0.0.1.:80/", "http://2130706433/", "http://0177.0.0.1/"),
    *("http://0.0.0.0/", "http://0/", "http://[::1]/", "http://[::]/", "http://[::ffff:127.0.0.1]/"),
    # private, shared, reserved, multicast, documentation
    *("http://10.0.0.1/", "http://172.16.0.1/", "http://172.31.255.255/", "http://192.168.1.1/", "http://100.64.0.1/"),
    *("http://198.18.0.1/", "http://192.0.2.1/", "http://224.0.0.1/", "http://240.0.0.1/", "http://255.255.255.255/"),
    *("http://[fc00::1]/", "http://[fe80::1]/", "http://[ff02::1]/", "http://[::ffff:10.0.0.1]/"),
    # clouds' metadata
    *("http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/"),
    # wrapped in another protocol's address
    *("http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/"),
    # in other digits and dots
    *("http://①②⑦.⓪.⓪.①/", "http://１２７.0.0.1/", "http://127。0。0。1/", "http://127.0.0.1%00.example.com/"),
    # other schemes
    *("ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "javascript:alert(1)", "data:text/plain,hi"),
    # no address at all
    *(
        "",
        "//example.com/x",
        "example.com",
        "/etc/passwd",
        "http://",
        "http:///x",
        "http://:80/",
        "http://[::1",
        "http://a..b/",
    ),
    *("http://" + "a" * 300 + ".com/", "https://example.com/" + "a" * 9000),
    # names that IDNA refuses
    *("http://" + "a" * 64 + ".com/", "http://" + "é" * 60 + ".com/", "http://.example.com/", "http://example.com../"),
    *("http://xn--a/", "http://xn--zzzzzzzzz.com/", "http://XN--A.com/", "http://xn--.com/", "http://☃.net/"),
    *("http://a\u200d.com/", "http://\u0300a.com/", "http://" + "a." * 127 + "com/", "http://xn--" + "a" * 60 + ".com/"),
    # ports of other services
    *(
        "http://example.com:22/",
        "http://example.com:25/",
        "http://example.com:0/",
        "http://example.com:99999/",
        "http://a.com:x/",
    ),
    # characters that parsers drop, each its own way
    *("http://exam ple.com/", "http://example.com/\r\nHost: x", " http://example.com", "http://example.com/\t"),
]
GOOD = [
    "http://example.com/",
    "https://example.com/a/b.png?size=1#top",
    "https://example.com:8443/x",
    "http://example.com:8080",
    "https://8.8.8.8/",
    "http://[2606:4700:4700::1111]/",
    "https://例え.jp/画像.png",
    "https://xn--r8jz45g.jp/",
    "HTTPS://EXAMPLE.COM/",
    "https://sub-domain.example.co.uk/x%20y",
]


@pytest.mark.parametrize("url", BAD, ids=lambda url: ascii(url)[:50])
def test_a_bad_address_is_refused_with_one_message_for_all(url: str) -> None:
    with pytest.raises(AddressRefused) as caught:
        check_url(url, Settings(), param="images.0")

    assert caught.value.message == AddressRefused().message
    assert caught.value.param == "images.0"


@pytest.mark.parametrize(
    "url",
    # credentials, and names made to look like something else
    [
        *("http://user:password@example.com/", "HTTPS://user@example.com/a.png", "http://:@example.com"),
        *("http://example.com@127.0.0.1/", "http://example.com\\@127.0.0.1/", "http://user:p@ss@example.com/"),
    ],
)
def test_credentials_in_an_address_are_refused_with_the_reason(url: str) -> None:
    with pytest.raises(AddressRefused, match="user:password@") as caught:
        check_url(url, Settings(), param="images.0")

    assert "example" not in caught.value.message
    check_url("https://example.com/@user/a.png?to=b@example.com", Settings(), param="x")  # not where a host stands


@pytest.mark.parametrize(
    ("given", "tidy"),
    [
        ("HTTPS://Example.com/A.png", "https://Example.com/A.png"),
        (" \t\r\nhttps://example.com/a.png\n ", "https://example.com/a.png"),
        ("https://example.com/a\r\n b.png", "https://example.com/a%20b.png"),
        ("htt\nps://example.com/a.png?q=a b#c d", "https://example.com/a.png?q=a%20b#c%20d"),
        ("https://bücher.example:8443/ä b.png", "https://xn--bcher-kva.example:8443/ä%20b.png"),
        ("http://ＥＸＡＭＰＬＥ.com/", "http://example.com/"),
        ("https://例え。jp/画像.png", "https://xn--r8jz45g.jp/画像.png"),
        ("https://example.com/a%20b.png", "https://example.com/a%20b.png"),
        ("http://exam ple.com/a b", "http://exam ple.com/a%20b"),  # no name: check_url refuses it
        *((other, other) for other in (" data:image/png;base64,aa aa", "file-1", "ftp://example.com/a b", "", "a b")),
    ],
)
def test_an_address_is_read_as_browsers_read_it(given: str, tidy: str) -> None:
    assert tidy_url(given) == tidy
    assert tidy_url(tidy) == tidy


#: Good as soon as what browsers drop is dropped.
UNTIDY = {"http://example.com/\r\nHost: x", " http://example.com", "http://example.com/\t"}


@pytest.mark.parametrize("url", [url for url in BAD if url not in UNTIDY], ids=lambda url: ascii(url)[:50])
def test_tidying_makes_no_bad_address_good(url: str) -> None:
    with pytest.raises(AddressRefused):
        check_url(tidy_url(url), Settings(), param="x")


@pytest.mark.parametrize("url", GOOD)
def test_a_public_address_passes(url: str) -> None:
    check_url(url, Settings(), param="images.0")


def test_a_network_may_be_allowed() -> None:
    settings = Settings.model_validate({"allow_networks": "10.1.0.0/16"})

    check_url("http://10.1.2.3:8000/", settings, param="x")
    for other in ("http://10.2.0.1/", "http://127.0.0.1/", "http://169.254.169.254/"):
        with pytest.raises(AddressRefused):
            check_url(other, settings, param="x")


@pytest.mark.parametrize("host", ["localhost", "0x7f.1", "127.0.0.1"])
async def test_nothing_connects_to_this_machine_whatever_it_is_called(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        async with make_client(Settings(), timeout_s=2) as client:
            with pytest.raises(ssrfguard.SSRFGuardError):
                await client.get(f"http://{host}:{server.getsockname()[1]}/")

        with pytest.raises(TimeoutError):
            server.accept()


async def test_an_allowed_network_is_connected_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        import asyncio

        async def answer() -> bytes:
            loop = asyncio.get_running_loop()
            server.setblocking(False)  # noqa: FBT003
            connection, _ = await loop.sock_accept(server)
            with connection:
                asked = await loop.sock_recv(connection, 4096)
                await loop.sock_sendall(connection, b"HTTP/1.1 204 No Content\r\nset-cookie: a=b\r\nconnection: close\r\n\r\n")
                return asked

        answering = asyncio.create_task(answer())
        async with make_client(make_settings(), timeout_s=2) as client:
            assert (await client.get(f"http://127.0.0.1:{server.getsockname()[1]}/")).status_code == 204
        asked = await answering

    assert b"user-agent: Sightline" in asked
