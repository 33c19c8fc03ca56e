"""The guard for every outgoing address: media to fetch and webhooks to post.

ssrfguard resolves a name once, checks every answer against the registries' table of non-public networks, and connects to
the very address it checked; redirects pass the same gate.
"""

from __future__ import annotations

from functools import lru_cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import IPv4Network, IPv6Network

import ssrfguard
import ssrfguard.httpx
from httpx import Limits, Timeout

from shared.errors import AddressRefused
from shared.settings import Settings

USER_AGENT = "Sightline/0.1"
#: Web ports and unprivileged ones; below them live mail, shells and other services that a stranger must not reach.
_PORTS = frozenset({80, 443, *range(1024, 65536)})


@lru_cache(maxsize=8)
def make_policy(allow_networks: tuple[IPv4Network | IPv6Network, ...], *, max_redirects: int) -> ssrfguard.Policy:
    """Say what may be contacted: public addresses, and the private networks that the settings name."""
    return ssrfguard.Policy(allowed_networks=allow_networks, allowed_ports=_PORTS, max_redirects=max_redirects)


def check_url(url: str, settings: Settings, *, param: str) -> None:
    """Refuse an address that its text alone gives away: another scheme, a private IP, credentials.

    Names are resolved, and their addresses checked, when the connection is made.

    Raises:
        AddressRefused: one message for every reason, so that nobody can map a network with it.
    """
    try:
        make_policy(settings.allow_networks, max_redirects=0).check_url(url)
    except ssrfguard.SSRFGuardError as error:
        raise AddressRefused(param=param) from error


def make_client(settings: Settings, *, timeout_s: float, max_redirects: int = 0) -> ssrfguard.httpx.AsyncClient:
    """Open a client that contacts nothing but what the policy allows; proxies, .netrc and cookies are ignored.

    Args:
        settings: names the private networks that are allowed.
        timeout_s: for each read and write; connecting gets 3 s.
        max_redirects: 0 hands a redirect back as the answer.
    """
    return ssrfguard.httpx.AsyncClient(
        policy=make_policy(settings.allow_networks, max_redirects=max_redirects),
        timeout=Timeout(timeout_s, connect=3.0),
        # No connection is kept: one that the other side closes at that moment would fail the next request on it.
        limits=Limits(max_connections=256, max_keepalive_connections=0),
        follow_redirects=max_redirects > 0,
        trust_env=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # else one site's would stay for everybody's jobs
        headers={"user-agent": USER_AGENT, "accept-encoding": "identity"},
    )
