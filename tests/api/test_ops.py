"""Endpoints for operators: health, readiness and metrics."""

import signal

import httpx
import pytest
import trio

from csm_trio.telemetry import METRICS_CONTENT_TYPE, Metrics
from support.client_calls import SPEECH, dial_refused, http_client, receive_all, send, until
from support.fakes import SineRunner, StepGate
from support.serving import serving

GUARD_S = 30.0


@pytest.mark.parametrize("path", ["/healthz", "/health"])
async def test_a_live_server_is_healthy(path: str) -> None:
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner) as server, http_client(server) as client:
            answer = await client.get(path)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_a_server_is_healthy_while_every_slot_is_used() -> None:
    runner = SineRunner(slots=1)
    with trio.fail_after(GUARD_S):
        async with (
            serving(lambda: runner) as server,
            http_client(server) as client,
            server.dial() as ws,
        ):
            await send(ws, {"text": "FRAMES=60 of speech, please. "})
            assert await ws.get_message()
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/readyz")).status_code == 200


async def test_a_step_loop_that_does_not_answer_is_unhealthy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = StepGate()
    with trio.fail_after(GUARD_S):
        async with serving(lambda: SineRunner(step_gate=gate)) as server:
            engine = server.state.engine
            try:
                async with http_client(server) as client, server.dial() as ws:
                    await send(ws, {"text": "One step, and no more. "})
                    await gate.held()
                    patient = type(engine).responds
                    monkeypatch.setattr(
                        type(engine), "responds", lambda engine: patient(engine, 0.05)
                    )
                    answer = await client.get("/healthz")
                    assert answer.status_code == 503
                    assert answer.json()["status"] != "ok"
                    gate.open()
                    await until_healthy(client)
            finally:
                gate.open()


async def until_healthy(client: httpx.AsyncClient) -> None:
    while (await client.get("/healthz")).status_code != 200:
        await trio.lowlevel.checkpoint()


async def test_a_draining_server_is_healthy_but_not_ready() -> None:
    gate = StepGate()
    with trio.fail_after(GUARD_S):
        async with serving(lambda: SineRunner(step_gate=gate)) as server:
            try:
                async with http_client(server) as client:
                    answer = await client.get("/readyz")
                    assert (answer.status_code, answer.json()) == (200, {"status": "ready"})
                    async with server.dial() as ws:
                        await send(ws, {"text": "I am still here. "}, {"text": ""})
                        await gate.held()
                        signal.raise_signal(signal.SIGTERM)
                        await until(lambda: server.state.admission.draining)
                        answer = await client.get("/readyz")
                        assert (answer.status_code, answer.json()) == (503, {"status": "draining"})
                        gate.open()
                        assert (await client.get("/healthz")).status_code == 200
                        await receive_all(ws)
            finally:
                gate.open()


def samples(text: str) -> dict[str, float]:
    """Return the samples of Prometheus' text format by name and labels."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def test_every_metric_is_shown_with_its_help_text() -> None:
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner) as server, http_client(server) as client:
            answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == METRICS_CONTENT_TYPE
    for metric in Metrics().registry.collect():
        shown = metric.name + ("_total" if metric.type == "counter" else "")
        assert f"# HELP {shown} {metric.documentation}" in answer.text
        assert f"# TYPE {shown} {metric.type}" in answer.text
    metrics = samples(answer.text)
    assert (metrics["csm_slots"], metrics["csm_slots_used"]) == (4, 0)
    assert (metrics["csm_sessions_limit"], metrics["csm_sessions"]) == (4, 0)


async def test_the_metrics_follow_a_session() -> None:
    gate = StepGate()
    text = "One two three. Four five six. "
    with trio.fail_after(GUARD_S):
        async with serving(lambda: SineRunner(step_gate=gate)) as server:
            try:
                async with http_client(server) as client:
                    async with server.dial() as ws:
                        await send(ws, {"text": text})
                        await gate.held()
                        gate.release()
                        await gate.held()
                        during = samples((await client.get("/metrics")).text)
                        gate.open()
                        await send(ws, {"text": ""})
                        await receive_all(ws)
                    await until(lambda: server.metric("csm_slots_used") == 0)
                    after = samples((await client.get("/metrics")).text)
            finally:
                gate.open()
    assert (during["csm_sessions"], during["csm_slots_used"]) == (1, 1)
    assert during["csm_frames_total"] == 1
    assert (after["csm_sessions"], after["csm_slots_used"]) == (0, 0)
    assert after["csm_frames_total"] == 12
    assert after["csm_characters_total"] == len(text)
    assert after["csm_ttfa_seconds_count"] == 1
    assert after["csm_chunk_gap_seconds_count"] >= 3
    assert after["csm_step_seconds_count"] == 14
    assert after["csm_prefill_seconds_count"] == 2
    assert after['csm_utterance_ends_total{reason="spoken"}'] == 2


async def test_the_real_time_factor_of_each_utterance_is_counted() -> None:
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner) as server, http_client(server) as client:
            await client.post(SPEECH, json={"text": "One two three. Four five six."})
            await until(lambda: server.metric("csm_slots_used") == 0)
            metrics = samples((await client.get("/metrics")).text)
    assert metrics["csm_real_time_factor_count"] == 2


async def test_refusals_and_failures_are_counted_by_their_reason() -> None:
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner) as server, http_client(server) as client:
            await client.post("/v1/text-to-speech/nobody", json={"text": "Hi."})
            await client.post(SPEECH, json={})
            await client.post(SPEECH, json={"text": "REFUSE me."})
            await dial_refused(server, f"{SPEECH}/stream-input?output_format=no")
            async with server.dial() as ws:
                await send(ws, "{no json")
                await receive_all(ws)
            await until(lambda: server.metric("csm_sessions") == 0)
            metrics = samples((await client.get("/metrics")).text)
    for reason in ("UnknownVoice", "MissingField", "TextTooLong", "UnknownFormat"):
        assert metrics[f'csm_refusals_total{{reason="{reason}"}}'] == 1
    assert metrics['csm_refusals_total{reason="InvalidMessage"}'] == 1
    assert metrics['csm_failures_total{error="TextTooLong"}'] == 1
