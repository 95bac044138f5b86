"""Metrics of one server, a timeline per context, and logs with the session's id."""

import logging
import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_STEP_BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.2, 0.5, 1.0)
_WAIT_BUCKETS_S = (0.02, 0.04, 0.06, 0.08, 0.12, 0.16, 0.25, 0.35, 0.5, 0.8, 1.5, 3.0, 10.0)
_RATIO_BUCKETS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.0, 1.5, 2.5)

session_id: ContextVar[str] = ContextVar("session_id", default="-")
"""Id in the log lines of this task; also `request-id` of a REST answer."""


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
        self.characters = Counter(
            "csm_characters", "Characters of text received.", registry=registry
        )

    def render(self) -> bytes:
        """Return Prometheus' text exposition format."""
        return generate_latest(self.registry)


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


class _SessionFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.session = session_id.get()
        return True


def configure_logging(level: str) -> None:
    """Log to standard error, one line per event, with the session's id."""
    stream = logging.StreamHandler()
    stream.addFilter(_SessionFilter())
    stream.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(name)s [%(session)s] %(message)s")
    )
    logging.basicConfig(level=level.upper(), handlers=[stream], force=True)
    for library in ("httpx", "httpcore", "huggingface_hub", "urllib3", "filelock"):
        logging.getLogger(library).setLevel(logging.WARNING)
