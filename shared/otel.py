"""Spans by OpenTelemetry's SDK, sent as OTLP over HTTP to where its own ``OTEL_EXPORTER_OTLP_*`` variables say."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import requests
from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared import tracing
from shared.tracing import Facts, Kind

#: The last version of the conventions that has those for GenAI: from the next one on they are a repository of their own.
SCHEMA_URL = "https://opentelemetry.io/schemas/1.41.1"
#: Where nobody takes what is left to be sent, a process does not wait for longer.
END_S = 3.0
_KINDS = {kind: trace.SpanKind[kind.upper()] for kind in ("producer", "consumer", "client", "internal")}
_OK, _ERROR = trace.Status(), trace.Status(trace.StatusCode.ERROR)
_W3C = TraceContextTextMapPropagator()


class Span(tracing.Span):
    """See :class:`shared.tracing.Span`."""

    def __init__(self, span: trace.Span, steps: _Steps) -> None:
        """Wrap one of the SDK's."""
        self._span, self._steps, self.is_dropped = span, steps, False

    def tell(self, facts: Facts) -> None:
        """See :class:`shared.tracing.Span`."""
        self._span.set_attributes(facts)

    def step(self, name: str, began_ns: int, ended_ns: int, facts: Facts | None = None, *, error: str = "") -> None:
        """See :class:`shared.tracing.Span`."""
        if self._span.is_recording():
            self._steps.tell(name, self._span.get_span_context(), (began_ns, max(began_ns, ended_ns)), facts or {}, error)

    def fail(self, code: str) -> None:
        """See :class:`shared.tracing.Span`."""
        self._span.set_attribute("error.type", code)
        self._span.set_status(_ERROR)

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
        resource = _Resource(Resource.create(own).merge(OTELResourceDetector().detect()))
        sender = BatchSpanProcessor(OTLPSpanExporter())
        self._ids, self._steps = _Ids(), _Steps(sender, resource)
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(sender)
        self._tracer = self._provider.get_tracer("sightline", schema_url=SCHEMA_URL)

    @contextmanager
    def span(
        self,
        name: str,
        kind: Kind,
        facts: Facts | None = None,
        *,
        parent: str = "",
        link: str = "",
        key: str = "",
        began_ns: int | None = None,
    ) -> Iterator[tracing.Span]:
        """See :class:`shared.tracing.Tracer`."""
        before = _read(parent) if parent else context.get_current()
        linked = [before] if kind == "consumer" else [_read(link)] if link else []
        links = [trace.Link(known) for one in linked if (known := trace.get_current_span(one).get_span_context()).is_valid]
        self._ids.next = int.from_bytes(sha256(key.encode()).digest()[:8]) if key else 0
        begun = self._tracer.start_span(name, before, _KINDS[kind], facts, links, began_ns)
        span = Span(begun, self._steps)
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


class _Resource(Resource):
    """A process's resource. The exporter asks each span for its hash, for which the SDK writes it as JSON each time."""

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource.attributes, resource.schema_url)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash


class _Steps:
    """Tells what is over and done. Spans that can still change cost three times as much, and a job has five of these."""

    def __init__(self, sender: BatchSpanProcessor, resource: Resource) -> None:
        self._sender, self._resource, self._ids = sender, resource, RandomIdGenerator()
        self._scope = InstrumentationScope("sightline", schema_url=SCHEMA_URL)

    def tell(self, name: str, parent: trace.SpanContext, times_ns: tuple[int, int], facts: Facts, error: str) -> None:
        own = trace.SpanContext(parent.trace_id, self._ids.generate_span_id(), is_remote=False, trace_flags=parent.trace_flags)
        step = ReadableSpan(
            *(name, own, parent, self._resource),
            attributes={**facts, "error.type": error} if error else facts,
            kind=trace.SpanKind.INTERNAL,
            instrumentation_scope=self._scope,
            status=_ERROR if error else _OK,
            start_time=times_ns[0],
            end_time=times_ns[1],
        )
        self._sender.on_end(step)


class _Ids(RandomIdGenerator):
    """Random ids, but for a span whose id is given."""

    next = 0  #: the id of the span that is made next; 0: a random one

    def generate_span_id(self) -> int:
        """Give the next span's id."""
        given, self.next = self.next, 0
        return given or super().generate_span_id()


def reach(timeout_s: float) -> tuple[str, str]:
    """Send the receiver no spans, in the way in which spans are sent.

    Returns:
        Where it is, without the secrets that an address may hold, and what went wrong; empty where it takes them.
    """
    session = _Session()
    OTLPSpanExporter(timeout=timeout_s, session=session).export([])
    return session.where, session.wrong


class _Session(requests.Session):
    """Notes how the last request went; of the exporter one hears only whether it worked."""

    where = wrong = ""

    def request(self, method: str, url: str, *args: Any, **more: Any) -> requests.Response:  # type: ignore[override]
        parts = urlsplit(url)
        self.where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        try:
            answer = super().request(method, url, *args, **more)
        except requests.RequestException as error:
            self.wrong = f"does not answer ({type(error).__name__})"
            raise
        self.wrong = "" if answer.ok else f"answers {answer.status_code}"
        return answer


def _read(traceparent: str) -> Context:
    return _W3C.extract({"traceparent": traceparent}, Context())
