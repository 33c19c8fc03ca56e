"""Spans by OpenTelemetry's SDK, sent as OTLP over HTTP to where its own ``OTEL_EXPORTER_OTLP_*`` variables say."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from uuid import uuid4

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared import tracing
from shared.tracing import Facts, Kind

#: The last version of the conventions that has those for GenAI: from the next one on they are a repository of their own.
SCHEMA_URL = "https://opentelemetry.io/schemas/1.41.1"
#: Where nobody takes what is left to be sent, a process does not wait for longer.
END_S = 3.0
_KINDS = {kind: trace.SpanKind[kind.upper()] for kind in ("producer", "consumer", "client", "internal")}
_W3C = TraceContextTextMapPropagator()


class Span(tracing.Span):
    """See :class:`shared.tracing.Span`."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        """Wrap one of the SDK's."""
        self._tracer, self._span, self.is_dropped = tracer, span, False
        self._context = trace.set_span_in_context(span, Context())

    def tell(self, facts: Facts) -> None:
        """See :class:`shared.tracing.Span`."""
        self._span.set_attributes(facts)

    def step(self, name: str, began_ns: int, ended_ns: int, facts: Facts | None = None, *, error: str = "") -> None:
        """See :class:`shared.tracing.Span`."""
        step = self._tracer.start_span(name, self._context, attributes=facts, start_time=began_ns)
        if error:
            _fail(step, error)
        step.end(max(began_ns, ended_ns))

    def fail(self, code: str) -> None:
        """See :class:`shared.tracing.Span`."""
        _fail(self._span, code)

    def drop(self) -> None:
        """See :class:`shared.tracing.Span`."""
        self.is_dropped = True


class OtelTracer(tracing.Tracer):
    """See :class:`shared.tracing.Tracer`. The SDK sends from a thread of its own; what it cannot send it drops."""

    def __init__(self, part: str) -> None:
        """Begin; variables of OpenTelemetry's own go before what stands here.

        Raises:
            ValueError: one of them cannot be read.
        """
        own = {"service.namespace": "sightline", "service.name": f"sightline-{part}", "service.instance.id": str(uuid4())}
        resource = Resource.create(own).merge(OTELResourceDetector().detect())
        self._ids = _Ids()
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("sightline", schema_url=SCHEMA_URL)

    @contextmanager
    def span(
        self, name: str, kind: Kind, facts: Facts | None = None, *, parent: str = "", key: str = "", began_ns: int | None = None
    ) -> Iterator[tracing.Span]:
        """See :class:`shared.tracing.Tracer`."""
        before = _read(parent) if parent else context.get_current()
        known = trace.get_current_span(before).get_span_context()
        links = [trace.Link(known)] if kind == "consumer" and known.is_valid else []
        self._ids.next = int.from_bytes(sha256(key.encode()).digest()[:8]) if key else 0
        begun = self._tracer.start_span(name, before, _KINDS[kind], facts, links, began_ns)
        span = Span(self._tracer, begun)
        try:
            # What an error says may hold what clients sent: its code is enough.
            with trace.use_span(begun, record_exception=False, set_status_on_exception=False):
                yield span
        except BaseException as error:
            span.fail(getattr(error, "code", "") or type(error).__name__)
            raise
        finally:
            if not span.is_dropped:
                begun.end()

    @contextmanager
    def within(self, traceparent: str) -> Iterator[None]:
        """See :class:`shared.tracing.Tracer`."""
        token = context.attach(_read(traceparent))
        try:
            yield
        finally:
            context.detach(token)

    def traceparent(self) -> str:
        """See :class:`shared.tracing.Tracer`."""
        carrier = dict[str, str]()
        _W3C.inject(carrier)
        return carrier.get("traceparent", "")

    def end(self) -> None:
        """See :class:`shared.tracing.Tracer`."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(END_S)


class _Ids(RandomIdGenerator):
    """Random ids, but for a span whose id is given."""

    next = 0  #: the id of the span that is made next; 0: a random one

    def generate_span_id(self) -> int:
        """Give the next span's id."""
        given, self.next = self.next, 0
        return given or super().generate_span_id()


def _read(traceparent: str) -> Context:
    return _W3C.extract({"traceparent": traceparent}, Context())


def _fail(span: trace.Span, code: str) -> None:
    span.set_attribute("error.type", code)
    span.set_status(trace.StatusCode.ERROR)
