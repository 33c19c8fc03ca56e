"""A real S3 API on loopback, which can be stopped, started again with its files, and told to refuse."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import httpx
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from sightline.stack import free_port

ACCESS_KEY = "AKIATESTTESTTEST1234"
#: What S3 says of a key that it does not know: it repeats the key.
REFUSAL = "<Error><Code>{code}</Code><Message>no</Message><AWSAccessKeyId>" + ACCESS_KEY + "</AWSAccessKeyId></Error>"


class _Quiet(WSGIRequestHandler):
    def log(self, *_: Any) -> None: ...


class S3:
    """One server; its buckets outlive a stop."""

    def __init__(self) -> None:
        self.port = free_port()
        self.asked: list[str] = []  #: methods of the requests so far
        #: Gives a request's status and error code where it is to be refused.
        self.refuse: Callable[[str], tuple[str, str] | None] = lambda _: None
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app  # a second of imports

        self._app = DomainDispatcherApplication(create_backend_app)
        self._server: BaseWSGIServer | None = None

    @property
    def environ(self) -> dict[str, str]:
        """What a part needs in its environment to reach it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }

    def start(self) -> None:
        if self._server:
            return
        listening = self._listen()
        options: dict[str, Any] = {"threaded": True, "request_handler": _Quiet, "fd": listening.fileno()}
        self._server = make_server("127.0.0.1", self.port, self._answer, **options)
        listening.close()  # the server has a copy of its own
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def _listen(self) -> socket.socket:
        until = time.monotonic() + 10
        while True:
            try:
                return socket.create_server(("127.0.0.1", self.port))
            except OSError:  # for a moment another's: it was free while the server was stopped
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def make_bucket(self, name: str) -> None:
        httpx.put(f"http://127.0.0.1:{self.port}/{name}", trust_env=False).raise_for_status()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        self.asked.append(method)
        if refused := self.refuse(f"{method} {environ['PATH_INFO']}?{environ['QUERY_STRING']}"):
            status, code = refused
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response(status, [("content-type", "application/xml")])
            return [REFUSAL.format(code=code).encode()]
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer
