"""What one process does, for Prometheus to read at a port of its own.

What the service did stands in Redis, and every gateway shows it: see :mod:`api.metrics`. Here is what only a process knows:
its memory, its stages, its requests. It goes when the process does.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import TYPE_CHECKING

import structlog

from shared.settings import Settings

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

log = structlog.get_logger()

#: From a picture that is read in milliseconds to a film that takes minutes.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


def open_metrics(settings: Settings) -> None:
    """Answer Prometheus from a thread of its own, where the settings name a port.

    Raises:
        SystemExit: the port is taken: figures of another process under this one's name would mislead for months. Or the host is
            none of this machine's.
    """
    if not settings.metrics_port:
        return
    from prometheus_client import make_wsgi_app, start_http_server

    show = make_wsgi_app()
    try:
        server, _ = start_http_server(settings.metrics_port, addr=settings.metrics_host)
    except (OSError, UnicodeError) as error:  # Unicode's: a name that can be none, as a..b
        place = f"{settings.metrics_host}:{settings.metrics_port}"
        remedy = (
            "give each process its own SIGHTLINE_METRICS_PORT, or 0 for none"
            if getattr(error, "errno", 0) == errno.EADDRINUSE
            else "let SIGHTLINE_METRICS_HOST be an address of this machine, and SIGHTLINE_METRICS_PORT a port that it may open"
        )
        log.error("metrics.no_port", place=place, error=getattr(error, "strerror", str(error)), remedy=remedy)  # noqa: TRY400  # the sentence says it all
        raise SystemExit(1) from error

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Answer HEAD, too, which the library refuses.

        In the form that Prometheus 2 prefers it writes vllm_ for vllm:, so everybody gets the older one, which has all.
        """
        is_head = environ["REQUEST_METHOD"] == "HEAD"
        method = {"REQUEST_METHOD": "GET"} if is_head else {}
        shown = show({**environ, **method, "HTTP_ACCEPT": "text/plain"}, start)
        return () if is_head else shown

    server.set_app(answer)
