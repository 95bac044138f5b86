"""An OTLP/HTTP collector of the standard library, which keeps the spans that it is sent."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from csm_trio.telemetry import FinishedContext, Timeline

MARKS = {"first_text": 10.1, "segmented": 10.2, "first_chunk": 10.45, "closed": 10.3}
CONTEXT = FinishedContext(
    context_id="one",
    session_id="c0ffee",
    parent=None,
    voice_id="vera",
    output_format="pcm_24000",
    characters=12,
    sentences=1,
    frames=25,
    audio_s=2.0,
    outcome="done",
    reason="",
    timeline=Timeline(received_s=10.0, marks=MARKS, laps={"chunk": 11.5}),
    ended_s=12.0,
)


@dataclass(slots=True)
class Received:
    """What a collector was sent; `status` is what it answers."""

    port: int = 0
    status: int = 200
    paths: list[str] = field(default_factory=list)
    resources: list[ResourceSpans] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for resource in self.resources
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@contextmanager
def otlp_receiver() -> Iterator[Received]:
    """Receive spans on a free port of the loopback."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.paths.append(self.path)
            received.resources += ExportTraceServiceRequest.FromString(body).resource_spans
            self.send_response(received.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def attributes_of(span: Span) -> dict[str, object]:
    """Return a span's attributes by their names."""
    return {
        one.key: getattr(one.value, one.value.WhichOneof("value") or "string_value")
        for one in span.attributes
    }
