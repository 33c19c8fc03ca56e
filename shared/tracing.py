"""Traces of jobs through the parts, where ``SIGHTLINE_OTEL`` asks for them; else everything here does nothing.

OpenTelemetry is imported by :mod:`shared.otel` alone, and that by :func:`begin` alone. What is told of a job are its ids, its
model, numbers, and our own words for errors: never a prompt, a medium, the path or query of an address, or a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

Kind = Literal["producer", "consumer", "client", "internal"]
#: Attributes of a span, under the names of OpenTelemetry's semantic conventions where those have one.
Facts = Mapping[str, str | int | float | Sequence[str]]


class Span:
    """A span; this one is heard of by nobody."""

    def tell(self, facts: Facts) -> None:
        """Add attributes."""

    def step(self, name: str, began_ns: int, ended_ns: int, facts: Facts | None = None, *, error: str = "") -> None:
        """Tell a part of it that is over, with the code of what went wrong; times are ns of the Unix clock."""

    def fail(self, code: str) -> None:
        """Say that it went wrong, by an error's code."""

    def drop(self) -> None:
        """Leave it untold, since another process tells it."""


class Tracer:
    """Makes spans; this one makes none."""

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
    ) -> Iterator[Span]:
        """Give a span that lasts as long as the block. An error that leaves the block is told by its code.

        Args:
            name: what is done.
            kind: its place between processes. A consumer's span is linked with its parent, too.
            facts: its attributes.
            parent: the ``traceparent`` of what it follows from; left out: what this task does now.
            link: the ``traceparent`` of what it belongs to, where that is too large for one trace.
            key: what its id is made from, so that another process can tell it in this one's place; left out: it is random.
            began_ns: when it began, where that is past, ns of the Unix clock.
        """
        del name, kind, facts, parent, link, key, began_ns
        yield Span()

    @contextmanager
    def within(self, traceparent: str) -> Iterator[None]:
        """Make what the block does a part of another's trace, where the text names one."""
        del traceparent
        yield

    def traceparent(self) -> str:
        """Name the span of what this task does now, as W3C's Trace Context writes that; empty where there is none."""
        return ""

    def end(self) -> None:
        """Send what is not sent yet, for some seconds at most: the last thing that a process does."""


class _Process:
    """What this process has."""

    tracer: ClassVar[Tracer] = Tracer()


def tracer() -> Tracer:
    """Give what makes this process's spans."""
    return _Process.tracer


def begin(part: str) -> list[str]:
    """Trace from here on.

    Args:
        part: what is running: gateway, batches, jobs, webhooks.

    Returns:
        What is wrong, in sentences for people; nothing is traced then.
    """
    try:
        from shared.otel import OtelTracer

        _Process.tracer = OtelTracer(part)
    except ImportError as error:
        return [f"SIGHTLINE_OTEL needs packages that are not installed ({error}): pip install 'sightline-vlm[otel]'"]
    except ValueError as error:
        return [f"a variable of OpenTelemetry is wrong: {error}"]
    return []


def reach(timeout_s: float) -> tuple[str, str]:
    """Try the receiver of spans; see :func:`shared.otel.reach`.

    Raises:
        ImportError: OpenTelemetry is not installed.
        ValueError: one of its variables cannot be read.
    """
    from shared.otel import reach as ask

    return ask(timeout_s)


def name_trace(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the ``trace_id`` to a line of the log; one of structlog's processors."""
    if traceparent := _Process.tracer.traceparent():
        line["trace_id"] = traceparent.split("-")[1]
    return line


def job_facts(operation: Literal["create", "process"], job_id: str, model: str, priority: str) -> dict[str, str | int]:
    """Give what is told of a job on its way from a gateway to a worker, by the conventions for messaging."""
    return {
        "messaging.system": "sightline",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": f"{priority}:{model}",
        "messaging.message.id": job_id,
    }
