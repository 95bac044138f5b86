"""Finished contexts as OpenTelemetry spans, exported by a thread of their own.

No span is open while a context runs: its times are known at its end, and spans are made of them
then. No frame is traced, and no span holds text.
"""

import logging
import threading
import time
import uuid
from collections.abc import Sequence
from importlib.metadata import version
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from csm_trio.telemetry import FinishedContext, Metrics, TraceParent

logger = logging.getLogger(__name__)

SPAN_NAME = "csm.context"
MAX_WAITING_SPANS = 2048
"""Spans that wait for the collector; more are dropped and counted."""
MAX_ID_CHARS = 128
"""Characters of a client's context id in a span."""
EXPORT_PERIOD_MS = 500
"""Time between two looks at the queue, shorter than what a failed engine leaves its workers."""
FLUSH_S = 1.0
"""Seconds that the spans which wait at the end have to be sent; a supervisor gives 2."""


class SpanTracer:
    """Makes a span of each finished context."""

    def __init__(self, provider: TracerProvider, *, model: str, worker: str = "") -> None:
        self._tracer = provider.get_tracer("csm_trio")
        self._process: dict[str, AttributeValue] = {"csm.model": model}
        if worker:
            self._process["csm.worker"] = worker

    def record(self, context: FinishedContext) -> None:
        """Make a span from a context's start to its end, and give it to the exporting thread."""
        timeline = context.timeline
        # Both clocks now: the wall clock may be set while a context runs.
        offset_ns = time.time_ns() - time.monotonic_ns()
        span = self._tracer.start_span(
            SPAN_NAME,
            context=_parent_context(context.parent),
            kind=SpanKind.SERVER,
            attributes={**self._process, **_attributes(context)},
            start_time=offset_ns + _ns(timeline.received_s),
        )
        for name, at_s in _events(context):
            span.add_event(name, timestamp=offset_ns + _ns(at_s))
        if context.outcome == "failed":
            span.set_status(Status(StatusCode.ERROR, context.reason))
        span.end(offset_ns + _ns(context.ended_s))


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _parent_context(parent: TraceParent | None) -> Context:
    """Return the caller's span as a context, an empty one where its header is invalid.

    Never the implicit context, which belongs to whichever task runs.
    """
    if parent is None or not parent.traceparent.isascii():
        return Context()
    carrier = {"traceparent": parent.traceparent}
    if parent.tracestate and parent.tracestate.isascii():
        carrier["tracestate"] = parent.tracestate
    return TraceContextTextMapPropagator().extract(carrier, Context())


def _attributes(context: FinishedContext) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        "csm.session_id": context.session_id,
        "csm.context_id": context.context_id[:MAX_ID_CHARS],
        "csm.voice_id": context.voice_id,
        "csm.output_format": context.output_format,
        "csm.characters": context.characters,
        "csm.sentences": context.sentences,
        "csm.frames": context.frames,
        "csm.audio_s": context.audio_s,
        "csm.outcome": context.outcome,
    }
    ttfa_s = context.timeline.since("segmented", "first_chunk")
    if ttfa_s is not None:
        attributes["csm.ttfa_s"] = ttfa_s
    if context.reason:
        attributes["csm.reason"] = context.reason
    return attributes


def _events(context: FinishedContext) -> list[tuple[str, float]]:
    """Return the events of a context in the order of their times."""
    timeline = context.timeline
    events = {"opened": timeline.received_s, **timeline.marks}
    if "chunk" in timeline.laps:
        events["last_chunk"] = timeline.laps["chunk"]
    return sorted(events.items(), key=lambda event: event[1])


class CountedExporter(SpanExporter):
    """Counts what an exporter sends and loses, and logs when the collector comes and goes."""

    def __init__(self, exporter: SpanExporter, metrics: Metrics, collector: str) -> None:
        self._exporter = exporter
        self._metrics = metrics
        self._collector = collector
        self._answers = True
        self.taken = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; runs on the exporting thread."""
        self.taken += len(spans)
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            self._note(len(spans), answers=result is SpanExportResult.SUCCESS)
        return result

    def _note(self, spans: int, *, answers: bool) -> None:
        (self._metrics.spans_exported if answers else self._metrics.spans_dropped).inc(spans)
        if answers != self._answers:
            self._answers = answers
            if answers:
                logger.info("traces: %s takes spans again", self._collector)
            else:
                logger.warning("traces: %s takes no spans; they are dropped", self._collector)

    def shutdown(self) -> None:
        """End the exporter."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Return True: nothing waits here."""
        return True


class BoundedProcessor(SpanProcessor):
    """Queues ended spans for the exporting thread; drops and counts what does not fit.

    The processor inside drops the oldest of its queue without a count.
    """

    def __init__(self, exporter: CountedExporter, metrics: Metrics, limit: int) -> None:
        self._exporter = exporter
        self._metrics = metrics
        self._limit = limit
        self._queued = 0
        self._batches = BatchSpanProcessor(
            exporter, max_queue_size=limit, schedule_delay_millis=EXPORT_PERIOD_MS
        )

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span; does not block."""
        if not span.context.trace_flags.sampled:
            return
        if self._queued - self._exporter.taken >= self._limit:
            self._metrics.spans_dropped.inc()
            return
        self._queued += 1
        self._batches.on_end(span)

    def shutdown(self) -> None:
        """Send what is queued, and end the exporting thread."""
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what is queued."""
        return self._batches.force_flush(timeout_millis)


class SpanExport:
    """The exporting thread of one process, and the tracer that feeds it."""

    def __init__(self, url: str, metrics: Metrics, *, model: str, worker: str = "") -> None:
        """Start the thread. Raises ValueError for a wrong variable of OpenTelemetry."""
        # The libraries repeat themselves for every batch that a dead collector does not take;
        # `CountedExporter` says it once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        exporter = CountedExporter(OTLPSpanExporter(endpoint=url), metrics, urlsplit(url).netloc)
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BoundedProcessor(exporter, metrics, MAX_WAITING_SPANS))
        self.tracer = SpanTracer(self._provider, model=model, worker=worker)

    def close(self) -> None:
        """Send what waits, for `FLUSH_S` at most."""
        # Its own shutdown may wait for 30 s; a daemon does not keep the process from its end.
        flush = threading.Thread(target=self._provider.shutdown, name="csm-traces", daemon=True)
        flush.start()
        flush.join(FLUSH_S)


def _resource() -> Resource:
    """Return what the spans of this process have in common; the environment overrides it."""
    own = Resource.create(
        {
            "service.name": "csm-trio",
            "service.version": version("csm-trio"),
            "service.instance.id": str(uuid.uuid4()),
        }
    )
    return own.merge(OTELResourceDetector().detect())
