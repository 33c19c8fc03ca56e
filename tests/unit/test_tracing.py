"""Traces: what is told when they are on, and that nothing of OpenTelemetry is needed when they are off."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from shared.errors import MediaTooLarge
from shared.otel import END_S, OtelTracer
from shared.settings import ROOT
from tests.otlp import Told, receiving

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
#: Behaves as if the packages were not installed; redis-py imports some of them where they are.
WITHOUT = """
import sys
class Refuse:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "opentelemetry":
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
"""


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + code],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_parts_need_no_opentelemetry_while_traces_are_off() -> None:
    code = """
import api.main, api.batches.main, worker.main, worker.process, worker.runtime, worker.webhooks.main
from shared.logs import start_part
from shared.tracing import tracer
settings = start_part("gateway")
api.main.create_app(settings)
with tracer().within("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), tracer().span("a", "producer"):
    print(repr(tracer().traceparent()), "shared.otel" in sys.modules)
tracer().end()
"""
    ran = run(code)
    assert (ran.stdout, ran.returncode) == ("'' False\n", 0), ran.stderr


@pytest.mark.parametrize(
    ("code", "variables", "said"),
    [
        (WITHOUT, {}, "pip install 'sightline-vlm[otel]'"),
        ("", {"OTEL_ATTRIBUTE_COUNT_LIMIT": "many"}, "a variable of OpenTelemetry is wrong"),
    ],
)
def test_a_part_that_cannot_trace_says_why_in_one_line(code: str, variables: dict[str, str], said: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}\nfrom shared.logs import start_part\nstart_part('gateway')"],
        cwd=ROOT,
        env={**os.environ, **variables, "SIGHTLINE_OTEL": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    [line] = ran.stderr.splitlines()
    assert "setting.invalid" in line
    assert said in line


def told(tell: Callable[[OtelTracer], None], monkeypatch: pytest.MonkeyPatch) -> list[Told]:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        tracer = OtelTracer("test")
        tell(tracer)
        tracer.end()
        assert not any(b"geheimnis" in body for body in receiver.bodies)
        return receiver.spans


def test_an_error_is_told_by_its_code_without_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def tell(tracer: OtelTracer) -> None:
        for error in (MediaTooLarge("geheimnis"), ValueError("geheimnis")):
            with pytest.raises(type(error)), tracer.span("fail", "internal"):
                raise error

    first, second = told(tell, monkeypatch)
    assert [span.facts for span in (first, second)] == [{"error.type": "media_too_large"}, {"error.type": "ValueError"}]
    assert first.failed
    assert second.failed


def test_a_key_gives_the_same_id_in_each_process_and_a_dropped_span_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def tell(tracer: OtelTracer) -> None:
        with tracer.span("attempt", "consumer", parent=CALLER, key="job-1") as span:
            span.step("fetch", 1, 2)
            span.drop()
        other = OtelTracer("other")
        with other.span("attempt", "consumer", parent=CALLER, key="job-1", began_ns=1) as span:
            span.fail("worker_lost")
        other.end()

    spans = told(tell, monkeypatch)
    [attempt], [step] = ([span for span in spans if span.name == name] for name in ("attempt", "fetch"))
    assert (attempt.service, step.service) == ("sightline-other", "sightline-test")
    assert step.parent == attempt.id
    assert {attempt.trace, step.trace} == {CALLER.split("-")[1]}
    assert (attempt.parent, attempt.links, attempt.began_ns) == (CALLER.split("-")[2], [CALLER.split("-")[2]], 1)


def test_a_caller_who_does_not_sample_is_heard_and_still_named(monkeypatch: pytest.MonkeyPatch) -> None:
    named = []

    def tell(tracer: OtelTracer) -> None:
        with tracer.within(CALLER[:-2] + "00"), tracer.span("create", "producer"):
            named.append(tracer.traceparent())
        with tracer.within("what is this"), tracer.span("create", "producer"):
            named.append(tracer.traceparent())

    [span] = told(tell, monkeypatch)
    assert named[0].startswith(CALLER[:36])
    assert named[0].endswith("-00")
    assert named[1].startswith(f"00-{span.trace}-{span.id}-")


def test_a_service_is_called_what_opentelemetrys_own_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "vision")

    def tell(tracer: OtelTracer) -> None:
        with tracer.span("create", "producer"):
            pass

    [span] = told(tell, monkeypatch)
    assert span.service == "vision"


def test_nobody_waits_long_for_a_collector_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and answers nothing
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        tracer, began = OtelTracer("test"), time.monotonic()
        with tracer.span("create", "producer"):
            pass
        tracer.end()
    assert time.monotonic() - began < END_S + 2
