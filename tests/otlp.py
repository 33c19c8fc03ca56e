"""A receiver of OTLP over HTTP on loopback, which keeps what it is sent: the bytes, and the spans in them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True)
class Told:
    """One span."""

    service: str
    schema: str
    name: str
    kind: str  #: producer, consumer, client or internal
    trace: str
    id: str
    parent: str
    links: list[str]  #: ids of spans
    facts: dict[str, Any]
    failed: bool
    began_ns: int
    ended_ns: int


class Receiver:
    """What has arrived; ``spans`` in the order of arrival."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.spans: list[Told] = []
        self.url = ""

    def take(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        self.bodies.append(body)
        self.spans += told(ExportTraceServiceRequest.FromString(body))

    def of_trace(self, trace: str) -> list[Told]:
        """Give the spans of a trace, the earliest first."""
        return sorted((span for span in self.spans if span.trace == trace), key=lambda span: (span.began_ns, span.ended_ns))

    def of_job(self, job_id: str) -> list[Told]:
        """Give the spans of the trace in which a job was made."""
        [made] = [span for span in self.spans if span.kind == "producer" and span.facts.get("messaging.message.id") == job_id]
        return self.of_trace(made.trace)


def told(request: ExportTraceServiceRequest) -> Iterator[Told]:
    for resource in request.resource_spans:
        service = next(fact.value.string_value for fact in resource.resource.attributes if fact.key == "service.name")
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Told(
                    *(
                        service,
                        scope.schema_url,
                        span.name,
                        trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                    ),
                    *(span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()),
                    [link.span_id.hex() for link in span.links],
                    {fact.key: _plain(fact.value) for fact in span.attributes},
                    span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
                    *(span.start_time_unix_nano, span.end_time_unix_nano),
                )


def _plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return [_plain(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Receive while the block runs."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            receiver.take(self.path, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02))
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
