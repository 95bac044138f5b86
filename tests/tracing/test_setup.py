"""Traces of a server: asked for by flag or environment, exported over HTTP, flushed at the end."""

import subprocess
import sys
import threading

import pytest
import trio
from opentelemetry.sdk.trace import TracerProvider

from csm_trio.config import Config
from csm_trio.errors import StartupError
from csm_trio.telemetry import Metrics
from csm_trio.tracing import spans
from csm_trio.tracing.setup import check_tracer, open_tracer, traces_url
from support.client_calls import SPEECH, http_client, receive_all, send, until
from support.fakes import SineRunner
from support.otlp_receiver import CONTEXT, attributes_of, otlp_receiver
from support.serving import serving

GUARD_S = 60.0
TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"}
BASE, TRACES = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


@pytest.fixture(autouse=True)
def no_otel_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the variables of the machine away."""
    for name in (BASE, TRACES, "OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_SERVICE_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("endpoint", "environ", "url"),
    [
        (None, {}, None),
        (None, {BASE: ""}, None),
        ("http://one:4318", {}, "http://one:4318/v1/traces"),
        ("http://one:4318/", {BASE: "http://two"}, "http://one:4318/v1/traces"),
        ("http://one", {TRACES: "http://two/x"}, "http://one/v1/traces"),
        (None, {BASE: "https://two/otlp"}, "https://two/otlp/v1/traces"),
        (None, {BASE: "http://two", TRACES: "http://three/in"}, "http://three/in"),
        ("http://one", {"OTEL_SDK_DISABLED": "true"}, None),
        (None, {BASE: "http://two", "OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)
def test_the_flag_goes_before_the_environment(
    endpoint: str | None, environ: dict[str, str], url: str | None
) -> None:
    assert traces_url(endpoint, environ) == url


@pytest.mark.parametrize(
    "environ",
    [
        {BASE: "collector:4317"},
        {BASE: "grpc://collector"},
        {BASE: "http://"},
        {BASE: "http://[::1"},
        {BASE: "http://host:99999999"},
        {BASE: "http://two", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
)
def test_what_cannot_be_a_collector_prevents_the_start(environ: dict[str, str]) -> None:
    with pytest.raises(StartupError):
        traces_url(None, environ)


def test_without_the_extra_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "csm_trio.tracing.spans", None)
    with pytest.raises(StartupError, match=r"pip install 'csm-trio\[otel\]'\.$"):
        check_tracer(Config(otlp_endpoint="http://127.0.0.1:4318"))


def test_a_wrong_variable_is_an_error_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SPAN_EVENT_COUNT_LIMIT", "many")
    with pytest.raises(StartupError, match="variable of OpenTelemetry"):
        check_tracer(Config(otlp_endpoint="http://127.0.0.1:4318"))


def test_off_imports_nothing_of_opentelemetry() -> None:
    program = (
        "import sys; from csm_trio.config import Config; "
        "from csm_trio.tracing.setup import check_tracer; import csm_trio.server; "
        "check_tracer(Config()); "
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"


@pytest.mark.usefixtures("each_topology")
async def test_every_context_is_one_span_at_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    with trio.fail_after(GUARD_S), otlp_receiver() as received:
        config = Config(otlp_endpoint=received.endpoint)
        async with serving(SineRunner, config) as server, http_client(server) as client:
            await client.post(SPEECH, json={"text": "Hello there."}, headers=PARENT)
            await client.post(SPEECH, json={"text": "REFUSE me."})
            async with server.dial(headers=PARENT) as ws:
                await send(ws, {"text": "Some words."}, {"text": ""})
                await receive_all(ws)
            async with server.dial() as ws:
                await send(ws, {"text": "FRAMES=500 words. ", "flush": True})
                await ws.get_message()
            await until(lambda: server.metric("csm_sessions") == 0)
            assert server.metric("csm_spans_dropped_total") == 0
    assert set(received.paths) == {"/v1/traces"}
    found = [(span, attributes_of(span)) for span in received.spans]
    assert [facts["csm.outcome"] for _, facts in found] == ["done", "failed", "done", "cancelled"]
    assert [span.trace_id.hex() == TRACE_ID for span, _ in found] == [True, False, True, False]
    assert found[0][0].parent_span_id.hex() == SPAN_ID
    assert found[0][1]["csm.characters"] == len("Hello there.")
    assert found[0][1]["csm.frames"] == 4
    assert [event.name for event in found[0][0].events] == [
        *("opened", "first_text", "segmented", "admitted"),
        *("first_frame", "first_chunk", "last_chunk"),
    ]
    assert "closed" in [event.name for event in found[2][0].events]
    assert found[3][1]["csm.reason"] == "hang_up"
    assert "cancelled" in [event.name for event in found[3][0].events]
    assert "words" not in str(received.spans)
    facts = received.resources[0].resource.attributes
    resource = {one.key: one.value.string_value for one in facts}
    assert resource["service.name"] == "csm-trio"
    assert resource["deployment.environment"] == "test"


async def test_a_dead_collector_costs_no_call_and_one_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "FLUSH_S", 0.1)
    config = Config(otlp_endpoint="http://127.0.0.1:9")
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner, config) as server, http_client(server) as client:
            for _ in range(3):
                answer = await client.post(SPEECH, json={"text": "Hello there."})
                assert answer.status_code == 200
    assert sum("traces" in record.getMessage() for record in caplog.records) <= 1
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


def test_the_end_does_not_wait_for_a_flush_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, released = threading.Event(), threading.Event()

    def hang(_: TracerProvider) -> None:
        begun.set()
        released.wait()

    monkeypatch.setattr(spans, "FLUSH_S", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(TracerProvider, "shutdown", hang)
        with open_tracer(Config(otlp_endpoint="http://127.0.0.1:9"), Metrics()) as tracer:
            assert tracer is not None
            tracer.record(CONTEXT)
    assert begun.wait(GUARD_S)
    released.set()
