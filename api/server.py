"""The gateway's HTTP server: uvicorn, with bounds on what one connection may send and how long it may take.

uvicorn reads a header that does not end until memory does, waits for a request as long as its client likes, and queues
connections silently where it has too many. Here each is refused, in the one error shape, before a route knows of it.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from contextlib import suppress
from enum import Enum
from typing import Any

import httptools
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from api.detached import Detached
from api.error_responses import problem
from api.shutdown import Leaving
from shared.errors import HeadersTooLarge, InvalidRequest, RequestTooSlow, SightlineError, TooManyConnections
from shared.settings import Settings
from shared.store.ids import new_id

MAX_HEAD_BYTES = 64 * 1024  #: of a request's line and headers; a browser full of cookies sends 16 kB
MAX_HEADERS = 200
HEAD_TIMEOUT_S = 30.0  #: for a request's line and headers, since its first byte or, for the first one, since the connection
BODY_STALL_S = 30.0  #: without a byte of a body that is waited for
#: A body has so long, and a second more for as many bytes as have come: else whoever sends a byte now and then on each of
#: MAX_CONNECTIONS keeps everybody out. A phone in the worst of networks sends ten times as many.
BODY_TIME_S, BODY_BYTES_A_S = 60.0, 500
#: Longer than clients keep an idle connection (httpx, and with it the openai package, 5 s): one that both sides drop at the
#: same moment loses the request that was just sent on it.
KEEP_ALIVE_S = 65
LINGER_S, LINGER_BYTES = 1.0, 128 * 1024  #: how long, and how much, a client is listened to that was refused and still sends
#: Of a connection's segments, at most: most networks have shorter ones. Loopback's are 64 kB, and thirty of them are what the
#: system of a client takes of an endless header before it hears that the header was refused.
SEGMENT_BYTES = 4096
STOP_TIMEOUT_S = 5  #: what a gateway that stops gives requests to end
FILES_BESIDE = 256  #: descriptors that are kept for Redis, files and logs


#: Headers that offer another protocol; `connection` only says that the others are there.
OFFERS = frozenset({b"connection", b"upgrade", b"http2-settings"})


class Awaited(Enum):
    """What a connection is waiting for."""

    HEAD = "head"
    BODY = "body"
    NOTHING = "nothing"  #: an answer is being made, or the next request may take its time


class BoundedProtocol(HttpToolsProtocol):
    """One client's connection. Whatever goes beyond a bound is answered if nothing else is being answered, and cut off."""

    # Beside the dictionary that uvicorn's protocol fills: more than 30 names cost each connection a table of its own, 2 kB.
    __slots__ = (
        "_awaited",
        "_body_bytes",
        "_heard_at",
        "_is_over",
        "_max_connections",
        "_refusal",
        "_since",
        "_unfinished_bytes",
        "_watch",
    )

    cycle: RequestResponseCycle | None  # type: ignore[assignment]  # uvicorn's own declaration leaves the beginning out

    def __init__(self, *given: Any, **named: Any) -> None:
        """Begin with nothing heard."""
        super().__init__(*given, **named)
        # uvicorn's own bound would answer with text, after the headers have been read.
        self._max_connections, self.limit_concurrency = self.limit_concurrency, None
        self._awaited, self._since, self._heard_at = Awaited.HEAD, self.loop.time(), 0.0
        self._body_bytes = 0  #: of the body that is waited for, so far
        self._unfinished_bytes = 0  #: heard since something was understood: a head, a piece of a body, an end
        self._refusal: SightlineError | None = None
        self._is_over = False
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, unless there are too many."""
        super().connection_made(transport)
        if self._max_connections and len(self.connections) > self._max_connections:
            self._refuse(TooManyConnections(retry_after_s=5))
            self.transport.close()
        else:
            self._look_again_in(HEAD_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        if self._watch:
            self._watch.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on while the unparsed rest is short."""
        self._unfinished_bytes += len(data)
        if self._is_over:
            if self._unfinished_bytes > LINGER_BYTES:
                self.transport.abort()
            return
        self._heard_at = self.loop.time()
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("")
        if self._unfinished_bytes > MAX_HEAD_BYTES and not self._is_over:
            self._refuse(HeadersTooLarge())

    def on_message_begin(self) -> None:
        """Wait for the head of a request."""
        super().on_message_begin()
        self._unfinished_bytes, self._awaited, self._since = 0, Awaited.HEAD, self._heard_at

    def on_headers_complete(self) -> None:
        """Begin a request, if its head is within bounds."""
        n_bytes = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if n_bytes > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._refusal = HeadersTooLarge()
            raise self._refusal  # it stops the parser, whose caller goes on to send_400_response
        if self._is_offered_upgrade():
            return
        self._unfinished_bytes, self._awaited = 0, Awaited.BODY
        self._since, self._body_bytes = self._heard_at, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._unfinished_bytes = 0
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request's body."""
        if self._is_offered_upgrade():
            return
        self._unfinished_bytes, self._awaited = 0, Awaited.NOTHING
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # uvicorn's words
        """Answer a request that is no HTTP, or was refused while it was read."""
        self._refuse(self._refusal or InvalidRequest("this is no valid HTTP/1.1 request"))

    def _is_offered_upgrade(self) -> bool:
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def _decline(self, rest: bytes) -> None:
        """Pass an upgrade over, as HTTP has it for what a server does not want: the request is read without the offer.

        Java's client offers HTTP/2 with every request, and the parser takes what follows the head for that.
        """
        if not self._is_offered_upgrade():
            return
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b\r\n" % header for header in self.headers if header[0] not in OFFERS]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"".join([*lines, b"\r\n", rest]))

    def _look_again_in(self, seconds: float) -> None:
        self._watch = self.loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """Give up what takes too long. One timer looks now and then: one for each request would cost as much as its parsing."""
        now = self.loop.time()
        if self._awaited is Awaited.BODY and self.cycle and self.cycle.response_complete:
            self.transport.close()  # it was answered before its body had come, and nobody reads the rest
            return
        if self._awaited is Awaited.HEAD:
            left_s = self._since + HEAD_TIMEOUT_S - now
            error = RequestTooSlow(f"the request's headers did not come within {HEAD_TIMEOUT_S:g} s")
        elif self._awaited is Awaited.BODY and not self._holds_back():
            left_s = min(self._heard_at + BODY_STALL_S, self._since + BODY_TIME_S + self._body_bytes / BODY_BYTES_A_S) - now
            error = RequestTooSlow(f"no more of the request's body came for {BODY_STALL_S:g} s, or too little of it")
        else:
            left_s = BODY_STALL_S
        if left_s > 0:
            self._look_again_in(left_s)
        elif not self._heard_at:
            self.transport.close()  # a spare connection of a browser
        else:
            self._refuse(error)

    def _holds_back(self) -> bool:
        """Say whether it is the gateway that does not read on at the moment."""
        return self.flow.read_paused or bool(self.cycle and self.cycle.waiting_for_100_continue)

    def _refuse(self, error: SightlineError) -> None:
        """Answer with an error, where no other answer is on its way, and close.

        What still comes is read for a moment: a connection that is closed over unread bytes takes the answer with it.
        """
        if self._is_over:
            return
        self._is_over = True
        if self._can_answer():
            request_id = new_id("req")
            answer = problem(error, request_id=request_id)
            headers = [*self.server_state.default_headers, *answer.raw_headers]
            headers += [(b"x-request-id", request_id.encode()), (b"connection", b"close")]
            lines = [STATUS_LINE[answer.status_code], *(b"%b: %b\r\n" % header for header in headers), b"\r\n"]
            self.transport.write(b"".join([*lines, bytes(answer.body)]))
        if self.cycle:
            self.cycle.disconnected = True  # so that nothing is written behind it
            self.cycle.message_event.set()
        self._unfinished_bytes = 0
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.abort)

    def _can_answer(self) -> bool:
        if self.pipeline:
            return False
        if self.cycle is None or self.cycle.response_complete:
            return True
        return self._awaited is Awaited.BODY and not self.cycle.response_started


class Server(uvicorn.Server):
    """A server that tells the requests that still wait when it stops."""

    def __init__(self, config: uvicorn.Config, leaving: Leaving) -> None:
        """Serve as configured."""
        super().__init__(config)
        self._leaving = leaving

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        for listener in (one for server in self.servers for one in server.sockets):
            with suppress(OSError):  # macOS sets it on connections only
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop."""
        self._leaving.begin()
        await super().shutdown(sockets)


def make_server(app: FastAPI, settings: Settings, **changed: Any) -> Server:
    """Make the gateway's server.

    Args:
        app: from :func:`api.main.create_app`.
        settings: where to listen, and how many connections to take.
        changed: options of uvicorn that are to be others, for a test.
    """
    options: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "http": BoundedProtocol,
        "ws": "none",
        "limit_concurrency": settings.max_connections,
        "log_config": None,
        "access_log": False,
        "timeout_graceful_shutdown": STOP_TIMEOUT_S,
        "timeout_keep_alive": KEEP_ALIVE_S,
        "proxy_headers": bool(settings.trusted_proxies),
        "forwarded_allow_ips": [str(proxy) for proxy in settings.trusted_proxies],
        "server_header": False,
    }
    return Server(uvicorn.Config(Detached(app), **options | changed), app.state.leaving)


def raise_file_limit(max_connections: int) -> int:
    """Let this process have as many files as it has connections.

    Returns:
        How many connections there is room for; beyond it, the system would let clients wait without a word.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_connections + FILES_BESIDE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max_connections if soft == resource.RLIM_INFINITY else min(max_connections, soft - FILES_BESIDE)
