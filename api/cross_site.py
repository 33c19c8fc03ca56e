"""What keeps web pages from using a gateway without keys through their reader's browser.

Whoever can reach such a gateway may use it, and every page that is open in a browser on this machine can: by a form that posts
to it, or by a name of its own that it lets point to 127.0.0.1 (DNS rebinding). A browser says where a request comes from.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from api.error_responses import problem
from shared.errors import CrossSite, ForeignHost, SightlineError
from shared.settings import Settings

#: A name without a dot, as a compose file or a cluster gives it to a service. No foreign page can come from one: it is nobody's
#: to register, so that no attacker can let it point here.
_SINGLE_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
#: What a page may post to another site without asking it first; for everything else a browser asks, and is refused.
FORM_TYPES = frozenset({b"", b"text/plain", b"multipart/form-data", b"application/x-www-form-urlencoded"})


class BrowserGate:
    """Refuses requests that a foreign page had a browser make; where keys are required, a page has none."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        """Know the names by which the gateway is asked."""
        self._app = app
        self._is_open = not settings.keys_required
        self._checks_host = settings.is_local or bool(settings.trusted_hosts)  # what others call it, only its settings can say
        self._origins = settings.allow_origins
        self._names = {"localhost", settings.host.lower(), *(name.lower() for name in settings.trusted_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through or refuse it."""
        error = self._refusal(scope) if self._is_open and scope["type"] == "http" else None
        await (problem(error) if error else self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> SightlineError | None:
        headers = list[tuple[bytes, bytes]](scope["headers"])
        hosts = [_name(value) for name, value in headers if name == b"host"]
        if self._checks_host:
            for host in hosts:
                if not self._is_ours(host):
                    return ForeignHost(
                        f"this gateway does not answer to the host {host[:100]!a}; SIGHTLINE_TRUSTED_HOSTS names more"
                    )
        if scope["method"] != "POST":  # the others change nothing, or are no form's
            return None
        given = dict(headers)
        if given.get(b"content-type", b"").partition(b";")[0].strip().lower() not in FORM_TYPES:
            return None
        asked_by = [value.decode("latin-1") for name, value in headers if name == b"origin"]
        if "*" in self._origins or (asked_by and all(origin in self._origins for origin in asked_by)):
            return None
        origins = [_name(urlsplit(origin).netloc.encode("latin-1")) for origin in asked_by]
        is_foreign = any(not self._is_ours(origin) and origin not in hosts for origin in origins)
        if is_foreign or (not origins and given.get(b"sec-fetch-site") == b"cross-site"):
            return CrossSite()
        return None

    def _is_ours(self, host: str) -> bool:
        if host in self._names or _SINGLE_LABEL.fullmatch(host):
            return True
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return False


def _name(authority: bytes) -> str:
    """Give the name in ``name:port``; of an IPv6 address what stands in the brackets."""
    text = authority.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].removesuffix(".")
