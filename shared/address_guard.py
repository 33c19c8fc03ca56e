"""The guard for every outgoing address: media to fetch and webhooks to post.

ssrfguard resolves a name once, checks every answer against the registries' table of non-public networks, connects to
the very address it checked, and asks the connection whom it reached; redirects pass the same gate.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import IPv4Network, IPv6Network, ip_network

import httpx
import idna
import ssrfguard
import ssrfguard.httpx
from httpx import Limits, Timeout

from shared.errors import AddressRefused
from shared.settings import Settings

#: Names that are looked up at a time: a thread each.
RESOLVER_SLOTS = 256
#: As the URL standard has it: control characters and blanks around an address, and line breaks anywhere, are not part of it.
_BLANKS, _BREAKS = "".join(map(chr, range(33))), str.maketrans("", "", "\t\r\n")
_HTTP = re.compile(r"(https?)://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
USER_AGENT = "Sightline/0.1"
#: Web ports and unprivileged ones; below them live mail, shells and other services that a stranger must not reach.
_PORTS = frozenset({80, 443, *range(1024, 65536)})
#: What the registries call public, or have not given out, and a stranger must not reach all the same.
_MORE_DENIED = {
    "168.63.129.16/32": "Azure's agent and DNS",
    # Global unicast is 2000::/3; gateways translate some of the rest.
    "::/3": "not global unicast",
    "4000::/2": "not global unicast",
    "8000::/1": "not global unicast",
}
_DENIED = ssrfguard.AddressTable(
    (
        *ssrfguard.DEFAULT_DENIED.blocks,
        *(ssrfguard.Block(ip_network(net), name, "RFC4291", ssrfguard.Reach.DENIED) for net, name in _MORE_DENIED.items()),
    )
)


class Refused(ssrfguard.SSRFGuardError):
    """A host or a redirect that our own rules refuse."""


@lru_cache(maxsize=8)
def make_policy(
    allow_networks: tuple[IPv4Network | IPv6Network, ...], allow_hosts: tuple[str, ...], *, max_redirects: int
) -> ssrfguard.Policy:
    """Say what may be contacted: public addresses, and the private networks that the settings name."""
    return ssrfguard.Policy(
        denied_networks=_DENIED,
        allowed_networks=allow_networks,
        allowed_hosts=frozenset(allow_hosts),
        allowed_ports=_PORTS,
        max_redirects=max_redirects,
    )


def tidy_url(url: str) -> str:
    """Give an address as browsers read it; what is none of http(s) is given back as it is.

    Blanks around it and line breaks in it are dropped, blanks in its path are encoded, its scheme is in small letters, and a
    name of other letters is written in ASCII. Nothing of that makes an address allowed: :func:`check_url` sees the result.
    """
    tidy = url.strip(_BLANKS).translate(_BREAKS)
    found = _HTTP.fullmatch(tidy)
    if found is None:
        return url
    scheme, authority, rest = found.groups()
    if not authority.isascii():
        host, colon, port = authority.partition(":")
        with suppress(idna.IDNAError):
            authority = idna.encode(host, uts46=True).decode() + colon + port
    return f"{scheme.lower()}://{authority}{rest.replace(' ', '%20')}"


def check_url(url: str, settings: Settings, *, param: str) -> None:
    """Refuse an address that its text alone gives away: another scheme, a private IP, credentials.

    Names are resolved, and their addresses checked, when the connection is made.

    Raises:
        AddressRefused: one message for every reason that has to do with a host, so that nobody can map a network with it.
    """
    found = _HTTP.fullmatch(url)
    if found and "@" in found.group(2):
        msg = "an address with `user:password@` in it is refused, since records and logs would hold it; use a signed address"
        raise AddressRefused(msg, param=param)
    try:
        target = make_policy(settings.allow_networks, settings.allow_hosts, max_redirects=0).check_url(url)
        _refuse_denied(target.host, settings.deny_hosts)
        _check_name(url, target.host)
    except (ssrfguard.SSRFGuardError, httpx.InvalidURL, UnicodeError) as error:
        raise AddressRefused(param=param) from error


def _check_name(url: str, host: str) -> None:
    """Have a host's name read by the libraries that will contact it; what they raise then would pass for the host's answer.

    Raises:
        UnicodeError: the resolver's codec refuses it, for a label that is empty or too long, or the HTTP client's newer IDNA
            does, for punycode that is none or a character that no name may have.
        httpx.InvalidURL: the same, of a name that is not in punycode yet.
    """
    host.encode("idna")
    _ = httpx.URL(url).host  # it is decoded when it is asked for


def make_client(settings: Settings, *, timeout_s: float, max_redirects: int = 0) -> ssrfguard.httpx.AsyncClient:
    """Open a client that contacts nothing but what the settings allow; proxies, .netrc and cookies are ignored.

    Args:
        settings: names the private networks that are allowed, and the hosts that are or are not.
        timeout_s: for each read and write; connecting gets 3 s.
        max_redirects: 0 hands a redirect back as the answer.
    """

    async def refuse_denied(request: httpx.Request) -> None:
        _refuse_denied(request.url.raw_host.decode(), settings.deny_hosts)  # here too: a redirect may lead to it

    return ssrfguard.httpx.AsyncClient(
        policy=make_policy(settings.allow_networks, settings.allow_hosts, max_redirects=max_redirects),
        timeout=Timeout(timeout_s, connect=3.0),
        # No connection is kept: one that the other side closes at that moment would fail the next request on it. Callers limit
        # their own connections: with a limit here, a request that waits for others would time out as if its host were down.
        limits=Limits(max_connections=None, max_keepalive_connections=0),
        resolver_slots=RESOLVER_SLOTS,
        follow_redirects=max_redirects > 0,
        trust_env=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # else one site's would stay for everybody's jobs
        event_hooks={"request": [refuse_denied], "response": [_refuse_downgrade, *([_skip_body] if max_redirects else [])]},
        headers={"user-agent": USER_AGENT, "accept-encoding": "identity"},
    )


def _refuse_denied(host: str, denied: tuple[str, ...]) -> None:
    name = host.rstrip(".").lower()
    for given in denied:
        pattern = given.lower().encode("idna").decode()
        if name == pattern.removeprefix("*.") or (pattern.startswith("*.") and name.endswith(pattern[1:])):
            raise Refused


async def _refuse_downgrade(answer: httpx.Response) -> None:
    """Refuse to go on in the clear where the client asked for https."""
    asked = answer.request.url
    if answer.has_redirect_location and asked.scheme == "https" != asked.join(answer.headers["location"]).scheme:
        raise Refused


async def _skip_body(answer: httpx.Response) -> None:
    """Leave out the body of a redirect, which httpx would read to its end, and unpack, before it goes on."""
    if answer.has_redirect_location and isinstance(answer.stream, httpx.AsyncByteStream):
        await answer.stream.aclose()
        answer.stream = httpx.ByteStream(b"")
