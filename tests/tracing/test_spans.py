"""Finished contexts become spans: times, attributes, parents, and a bounded queue."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from csm_trio.telemetry import FinishedContext, Metrics, Timeline, TraceParent
from csm_trio.tracing.spans import BoundedProcessor, CountedExporter, SpanTracer
from support.otlp_receiver import CONTEXT

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def span_of(context: FinishedContext, **process: Any) -> ReadableSpan:
    """Return the span that a tracer makes of a context."""
    provider, memory = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    SpanTracer(provider, model="embedded", **process).record(context)
    (span,) = memory.get_finished_spans()
    return span


def test_a_span_has_the_times_of_the_context() -> None:
    before_ns = time.time_ns() - time.monotonic_ns()
    span = span_of(CONTEXT)
    start_ns, end_ns = span.start_time, span.end_time
    assert start_ns is not None
    assert end_ns is not None
    assert end_ns - start_ns == 2_000_000_000
    assert abs(start_ns - before_ns - 10_000_000_000) < 1_000_000_000
    assert [(event.name, event.timestamp - start_ns) for event in span.events] == [
        ("opened", 0),
        ("first_text", 100_000_000),
        ("segmented", 200_000_000),
        ("closed", 300_000_000),
        ("first_chunk", 450_000_000),
        ("last_chunk", 1_500_000_000),
    ]


def test_a_span_has_the_facts_of_the_context() -> None:
    span = span_of(CONTEXT, worker="worker-1")
    assert span.name == "csm.context"
    attributes = dict(span.attributes or {})
    assert attributes.pop("csm.ttfa_s") == pytest.approx(0.25)
    assert attributes == {
        "csm.model": "embedded",
        "csm.worker": "worker-1",
        "csm.session_id": "c0ffee",
        "csm.context_id": "one",
        "csm.voice_id": "vera",
        "csm.output_format": "pcm_24000",
        "csm.characters": 12,
        "csm.sentences": 1,
        "csm.frames": 25,
        "csm.audio_s": 2.0,
        "csm.outcome": "done",
    }
    assert span.status.status_code is StatusCode.UNSET


def test_a_failure_is_an_error_and_a_cancel_is_none() -> None:
    failed = span_of(replace(CONTEXT, outcome="failed", reason="EngineFailed"))
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.status.description == "EngineFailed"
    cancelled = span_of(replace(CONTEXT, outcome="cancelled", reason="hang_up"))
    assert cancelled.status.status_code is StatusCode.UNSET
    assert (cancelled.attributes or {})["csm.reason"] == "hang_up"


def test_a_context_without_audio_has_no_ttfa() -> None:
    span = span_of(replace(CONTEXT, timeline=Timeline(), context_id="x" * 10_000))
    attributes = span.attributes or {}
    assert "csm.ttfa_s" not in attributes
    assert len(str(attributes["csm.context_id"])) == 128


def test_the_callers_span_is_the_parent() -> None:
    parent = TraceParent(f"00-{TRACE_ID}-{SPAN_ID}-01", "vendor=1")
    span = span_of(replace(CONTEXT, parent=parent))
    assert span.parent is not None
    assert span.context.trace_id == int(TRACE_ID, 16)
    assert span.parent.span_id == int(SPAN_ID, 16)
    assert span.parent.is_remote
    assert span.context.trace_state.to_header() == "vendor=1"


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "no",
        f"00-{TRACE_ID}-{SPAN_ID}",
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-01-more",
        f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",
        "\u0663" * 55,
        "\xff\x00\n" * 1000,
        f"00-{TRACE_ID}-{SPAN_ID}-01" * 1000,
    ],
)
def test_an_invalid_parent_is_no_parent(traceparent: str) -> None:
    for state in ("", "a=1,," * 9000, "\xe9=\n", "=,=,=", "a" * 10_000):
        span = span_of(replace(CONTEXT, parent=TraceParent(traceparent, state)))
        assert span.parent is None


@pytest.mark.parametrize("state", ["a=1,,", "\xe9=\n", "=,=,=", "a" * 10_000, "a=1,a=2"])
def test_an_invalid_state_does_not_lose_the_parent(state: str) -> None:
    parent = TraceParent(f"00-{TRACE_ID}-{SPAN_ID}-01", state)
    assert span_of(replace(CONTEXT, parent=parent)).parent is not None


class HeldExporter(SpanExporter):
    """A collector that answers when the test lets it, and refuses unless told otherwise."""

    def __init__(self) -> None:
        self.result = SpanExportResult.FAILURE
        self.held, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.held.release()
        assert self.go.acquire(timeout=10)
        return self.result

    def shutdown(self) -> None:
        pass


def test_what_a_slow_collector_does_not_take_is_dropped_and_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
    metrics, slow = Metrics(), HeldExporter()
    counted = CountedExporter(slow, metrics, "collector:4318")
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BoundedProcessor(counted, metrics, 4))
    tracer = SpanTracer(provider, model="embedded")

    def count(name: str) -> float:
        return metrics.registry.get_sample_value(f"csm_spans_{name}_total") or 0.0

    with caplog.at_level(logging.INFO, "csm_trio"):
        for _ in range(4):
            tracer.record(CONTEXT)
        assert slow.held.acquire(timeout=10)
        for _ in range(10):
            tracer.record(CONTEXT)
        assert (count("exported"), count("dropped")) == (0, 6)
        slow.go.release()
        assert slow.held.acquire(timeout=10)  # the second batch
        assert count("dropped") == 10
        slow.result = SpanExportResult.SUCCESS
        slow.go.release(100)
        provider.shutdown()
    assert (count("exported"), count("dropped")) == (4, 10)
    assert [record.getMessage() for record in caplog.records] == [
        "traces: collector:4318 takes no spans; they are dropped",
        "traces: collector:4318 takes spans again",
    ]
