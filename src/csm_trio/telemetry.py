"""Metrics of one server, a timeline per context, and logs with the session's id."""

import contextlib
import gc
import logging
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from csm_trio.log_format import JsonFormatter, LineFormatter

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_STEP_BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.2, 0.5, 1.0)
_WAIT_BUCKETS_S = (0.02, 0.04, 0.06, 0.08, 0.12, 0.16, 0.25, 0.35, 0.5, 0.8, 1.5, 3.0, 10.0)
_LAG_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 3.0)
_RATIO_BUCKETS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.0, 1.5, 2.5)

_LOG_QUEUE_LINES = 2000
"""Lines of the log that wait for a reader of standard error; more are dropped."""
_LOG_CLOSE_S = 1.0

session_id: ContextVar[str] = ContextVar("session_id", default="-")
"""Id in the log lines of this task; also `request-id` of a REST answer."""

key_name: ContextVar[str] = ContextVar("key_name", default="")
"""Name of this task's API key in its log lines."""

trace_parent: ContextVar["TraceParent | None"] = ContextVar("trace_parent", default=None)
"""The caller's span, of the request that this task serves."""


class Metrics:
    """The metrics of one server, safe to change from any thread."""

    def __init__(self) -> None:
        # Its own registry: two servers in one process (tests) must not share metrics.
        self.registry = CollectorRegistry()
        registry = self.registry
        self.slots = Gauge("csm_slots", "Slots in the pool.", registry=registry)
        self.slots_used = Gauge(
            "csm_slots_used", "Slots that hold an utterance.", registry=registry
        )
        self.utterances_waiting = Gauge(
            "csm_utterances_waiting", "Utterances that wait for a pool token.", registry=registry
        )
        self.sessions_limit = Gauge(
            "csm_sessions_limit", "Maximum of concurrent sessions.", registry=registry
        )
        self.sessions = Gauge(
            "csm_sessions", "Open sessions (sockets and REST requests).", registry=registry
        )
        self.key_sessions = Gauge(
            "csm_key_sessions", "Open sessions of each API key.", ["key"], registry=registry
        )
        self.admissions_waiting = Gauge(
            "csm_admissions_waiting", "Requests that wait for a session.", registry=registry
        )
        self.connections = Gauge(
            "csm_connections", "Open TCP connections of clients.", registry=registry
        )
        self.accept_errors = Counter(
            "csm_accept_errors",
            "Connections that could not be accepted at once, for want of descriptors or memory.",
            registry=registry,
        )
        self.step_s = Histogram(
            "csm_step_seconds", "Time of one step, which makes a frame for every running row.",
            buckets=_STEP_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.prefill_s = Histogram(
            "csm_prefill_seconds",
            "Time of one prefill chunk between two steps.",
            buckets=_STEP_BUCKETS_S,
            registry=registry,
        )
        self.cancel_to_free_s = Histogram(
            "csm_cancel_to_free_seconds",
            "Time from an utterance's cancel to the release of its slot.",
            buckets=_STEP_BUCKETS_S,
            registry=registry,
        )
        self.frames = Counter("csm_frames", "Frames of 80 ms delivered.", registry=registry)
        self.ttfa_s = Histogram(
            "csm_ttfa_seconds",
            "TTFA: time from a context's first sentence to its first chunk.",
            buckets=_WAIT_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.chunk_gap_s = Histogram(
            "csm_chunk_gap_seconds",
            "Time between two chunks of a context.",
            buckets=_WAIT_BUCKETS_S,
            registry=registry,
        )
        self.underrun_s = Histogram(
            "csm_underrun_seconds",
            "Silence within a sentence by estimate: from the playback buffer's end to its next "
            "frame.",
            buckets=_WAIT_BUCKETS_S,
            registry=registry,
        )
        self.event_loop_lag_s = Histogram(
            "csm_event_loop_lag_seconds",
            "How late the event loop runs a task that is due, probed twice a second.",
            buckets=_LAG_BUCKETS_S,
            registry=registry,
        )
        self.gc_pause_s = Histogram(
            "csm_gc_pause_seconds",
            "Time of one garbage collection, which stops every thread.",
            buckets=_LAG_BUCKETS_S,
            registry=registry,
        )
        self.descriptors = Gauge(
            "csm_open_descriptors", "Open file descriptors of the process.", registry=registry
        )
        self.descriptors.set_function(_count_descriptors)
        self.socket_closes = Counter(
            "csm_socket_closes",
            "WebSockets that ended, by close code; none is an end without a close frame.",
            ["code"],
            registry=registry,
        )
        self.real_time_factor = Histogram(
            "csm_real_time_factor",
            "Generation time of an utterance over the duration of its audio.",
            buckets=_RATIO_BUCKETS,
            registry=registry,
        )
        self.utterance_ends = Counter(
            "csm_utterance_ends", "Utterances that ended, by reason.", ["reason"], registry=registry
        )
        self.cancels = Counter(
            "csm_cancels", "Contexts cancelled, by reason.", ["reason"], registry=registry
        )
        self.refusals = Counter(
            "csm_refusals",
            "Sessions and requests refused, by error.",
            ["reason"],
            registry=registry,
        )
        self.failures = Counter(
            "csm_failures", "Contexts that failed, by error.", ["error"], registry=registry
        )
        self.workers = Gauge("csm_workers", "Worker processes that serve.", registry=registry)
        self.worker_restarts = Counter(
            "csm_worker_restarts", "Worker processes that ended and were replaced.",
            registry=registry,
        )  # fmt: skip
        self.worker_connections = Gauge(
            "csm_worker_connections", "Connections handed to a worker process and still open.",
            ["worker"], registry=registry,
        )  # fmt: skip
        self.log_lines_dropped = Gauge(
            "csm_log_lines_dropped",
            "Lines of the log dropped because standard error is not read.",
            registry=registry,
        )
        self.log_lines_dropped.set_function(lambda: log_drops.lines)
        self.spans_exported = Counter(
            "csm_spans_exported", "Trace spans that the collector has taken.", registry=registry
        )
        self.spans_dropped = Counter(
            "csm_spans_dropped",
            "Trace spans lost because the collector is slow, absent or refuses them.",
            registry=registry,
        )
        self.characters = Counter(
            "csm_characters", "Characters of text received.", registry=registry
        )

    def render(self) -> bytes:
        """Return Prometheus' text exposition format."""
        return generate_latest(self.registry)


def _count_descriptors() -> float:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:  # no Linux
        return math.nan


@contextlib.contextmanager
def observed_gc(metrics: Metrics) -> Iterator[None]:
    """Measure every garbage collection while the block runs."""
    begun_s = 0.0

    def observe(phase: str, _: dict[str, int]) -> None:
        nonlocal begun_s
        if phase == "start":
            begun_s = time.perf_counter()
        else:
            metrics.gc_pause_s.observe(time.perf_counter() - begun_s)

    gc.callbacks.append(observe)
    try:
        yield
    finally:
        gc.callbacks.remove(observe)


@dataclass(slots=True)
class Timeline:
    """Times of a context's events, in seconds of the monotonic clock."""

    received_s: float = field(default_factory=time.monotonic)
    marks: dict[str, float] = field(default_factory=dict)
    laps: dict[str, float] = field(default_factory=dict)

    def mark(self, name: str) -> bool:
        """Record the first time of event `name`; return whether this is it."""
        if name in self.marks:
            return False
        self.marks[name] = time.monotonic()
        return True

    def lap(self, name: str) -> float | None:
        """Record event `name`; return the seconds since its last time, None on the first."""
        now_s = time.monotonic()
        before_s = self.laps.get(name)
        self.laps[name] = now_s
        return None if before_s is None else now_s - before_s

    def since(self, start: str, end: str) -> float | None:
        """Return the seconds from one mark to another; None where one is missing."""
        if start not in self.marks or end not in self.marks:
            return None
        return self.marks[end] - self.marks[start]

    def __str__(self) -> str:
        return " ".join(
            f"{name}={1000 * (at - self.received_s):.0f}ms" for name, at in self.marks.items()
        )


@dataclass(frozen=True, slots=True)
class TraceParent:
    """The caller's span, as its request names it in headers (W3C Trace Context)."""

    traceparent: str
    tracestate: str = ""


@dataclass(frozen=True, slots=True)
class FinishedContext:
    """How a context ended, and when what happened.

    outcome: `done`, `failed` or `cancelled`; reason: the error or the cancel's reason, empty when
    done. ended_s: in seconds of the monotonic clock, as the times of the timeline.
    """

    context_id: str
    session_id: str
    parent: TraceParent | None
    voice_id: str
    output_format: str
    characters: int
    sentences: int
    frames: int
    audio_s: float
    outcome: str
    reason: str
    timeline: Timeline
    ended_s: float


class ContextTracer(Protocol):
    """Receives every context at its end."""

    def record(self, context: FinishedContext) -> None:
        """Take one context; does not block."""


class _SessionFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.session = session_id.get()
        record.key = key_name.get()
        return True


@dataclass(slots=True)
class LogDrops:
    """How many lines of the log were dropped because their reader does not keep up."""

    lines: int = 0


log_drops = LogDrops()


class QueuedHandler(logging.Handler):
    """Writes lines to a file descriptor from a thread of its own, so that logging never blocks.

    A pipe without a reader, or a slow disk, would otherwise stop the event loop. Lines that do
    not fit into the queue are dropped and counted.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        # A copy: the owner may close its own, whose number the next file that is opened gets.
        self._descriptor = os.dup(descriptor)
        self._lines: queue.Queue[str | None] = queue.Queue(_LOG_QUEUE_LINES)
        # A daemon: a blocked write must not keep the process from its end.
        self._thread = threading.Thread(target=self._write_all, name="csm-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one event."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            log_drops.lines += 1

    def close(self) -> None:
        """Write what is queued, for a second at most."""
        until_s = time.monotonic() + _LOG_CLOSE_S
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=_LOG_CLOSE_S)
            self._thread.join(max(0.0, until_s - time.monotonic()))
        super().close()

    def _write_all(self) -> None:
        reported = log_drops.lines
        while (line := self._lines.get()) is not None:
            self._write(line)
            if (dropped := log_drops.lines) != reported:
                self._write(self._dropped_notice(dropped - reported))
                reported = dropped
        os.close(self._descriptor)

    def _dropped_notice(self, lines: int) -> str:
        notice = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING"}
        text = f"{lines} lines of the log were dropped here"
        return self.format(logging.makeLogRecord({**notice, "msg": text}))

    def _write(self, line: str) -> None:
        data = memoryview(f"{line}\n".encode("utf-8", "backslashreplace"))
        try:
            while data:
                # Not through sys.stderr: its lock, held by a blocked thread, would hang the exit.
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            log_drops.lines += 1


def hide_secrets(secrets: Iterable[str]) -> None:
    """Replace more secrets wherever they occur in the log of this process."""
    known = tuple(secrets)
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, LineFormatter):
            handler.formatter.hide(known)


def configure_logging(
    level: str,
    *,
    log_format: str = "text",
    secrets: Iterable[str] = (),
    process: str = "",
    texts: bool = False,
) -> None:
    """Log to standard error without ever blocking, one event a line, with the session's id.

    `log_format` is `text` or `json`. `secrets` are replaced wherever they occur. `process` names
    this process where a server has several. `texts` is whether texts of clients may be logged.
    """
    handler: logging.Handler
    try:
        handler = QueuedHandler(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):  # closed, or not a file
        handler = logging.StreamHandler()
    handler.addFilter(_SessionFilter())
    formatter = JsonFormatter if log_format == "json" else LineFormatter
    handler.setFormatter(formatter(secrets, process, texts=texts))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Python writes warnings to standard error itself, which may block.
    logging.captureWarnings(True)
    for library in ("httpx", "httpcore", "huggingface_hub", "urllib3", "filelock"):
        logging.getLogger(library).setLevel(logging.WARNING)
