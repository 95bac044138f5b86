"""The `multi-stream-input` socket: several streams of speech, each named."""

import json
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csm_trio.config import Config, SpeechConfig
from support.client_calls import (
    KEY,
    assert_it_still_serves,
    joined_audio,
    locked,
    receive_all,
    running_server,
    send,
    sine_speech,
    until,
)
from support.fakes import SineRunner, StepGate
from support.serving import TEST_SERVER, serving

ENDPOINT = "text-to-speech/{voice}/multi-stream-input"
END: dict[str, Any] = {"close_socket": True}
GUARD_S = 30.0


def of(context_id: str, **fields: Any) -> dict[str, Any]:
    return {"context_id": context_id, **fields}


def received_of(received: list[dict[str, Any]], context_id: str | None) -> list[dict[str, Any]]:
    return [message for message in received if message["contextId"] == context_id]


async def test_every_context_is_one_stream_with_one_end() -> None:
    runner = SineRunner()
    texts = {"a": "Hello there. How are you?", "b": "Quite well, thank you.", None: "Good."}
    with trio.fail_after(GUARD_S):
        async with (
            serving(lambda: runner) as server,
            server.dial(endpoint=ENDPOINT, output_format="ulaw_8000") as ws,
        ):
            for context_id, text in texts.items():
                name = {} if context_id is None else {"context_id": context_id}
                await send(ws, {"text": " ", **name}, {"text": text, **name})
            await send(ws, END)
            received, code = await receive_all(ws)
    assert code == 1000
    for context_id, text in texts.items():
        *spoken, final = received_of(received, context_id)
        sentences = [one for one in runner.opened if one.text in text]
        assert joined_audio(spoken) == sine_speech(sentences, "ulaw_8000")
        assert final == {
            "audio": None,
            "isFinal": True,
            "is_final": True,
            "normalizedAlignment": None,
            "alignment": None,
            "contextId": context_id,
            "context_id": context_id,
        }
        assert all(
            message == {**message, "isFinal": False, "is_final": False} for message in spoken
        )
        assert all(message.keys() == final.keys() for message in spoken)


async def test_synced_alignments_count_from_the_contexts_start() -> None:
    text = "Hello there. How are you? Quite well, thank you."
    async with (
        running_server() as server,
        server.dial(endpoint=ENDPOINT, sync_alignment="true") as ws,
    ):
        await send(ws, of("a", text=text), of("a", flush=True))
        await send(ws, of("a", close_context=True), END)
        received, _ = await receive_all(ws)
    alignments = [
        message["normalizedAlignment"] for message in received if message["normalizedAlignment"]
    ]
    starts = [ms for one in alignments for ms in one["charStartTimesMs"]]
    assert "".join(char for one in alignments for char in one["chars"]).split() == text.split()
    assert starts == sorted(starts)
    assert starts[-1] + alignments[-1]["charDurationsMs"][-1] == len(joined_audio(received)) / 48


async def test_keep_alives_and_flushes_without_text_are_not_answered() -> None:
    async with running_server() as server, server.dial(endpoint=ENDPOINT) as ws:
        await send(ws, {"text": ""}, {}, of("x", text=""), of("x", flush=True))
        await send(ws, of("x", close_context=True), {"close_context": True}, {"flush": True})
        await send(ws, END)
        assert await receive_all(ws) == ([], 1000)


async def test_a_flush_ends_no_context() -> None:
    async with running_server() as server, server.dial(endpoint=ENDPOINT) as ws:
        for text in ("No stop yet", "nor here"):
            await send(ws, of("a", text=text), of("a", flush=True))
            assert json.loads(await ws.get_message())["isFinal"] is False
        await send(ws, of("a", flush=True), of("a", close_context=True), END)
        received, code = await receive_all(ws)
    assert ([message["isFinal"] for message in received].count(True), code) == (1, 1000)


@pytest.mark.usefixtures("short_error_to_close")
async def test_a_sixth_context_ends_the_session() -> None:
    async with running_server() as server:
        async with server.dial(endpoint=ENDPOINT) as ws:
            await send(ws, *(of(f"{number}", text=" ") for number in range(6)))
            received, code = await receive_all(ws)
        assert received == [
            {
                "message": "Maximum simultaneous contexts per WebSocket connection exceeded (5). "
                "Please close an existing context before opening a new one.",
                "error": "max_active_conversations",
                "code": 1008,
            }
        ]
        assert code == 1008
        await assert_it_still_serves(server)


async def test_a_failed_context_does_not_affect_the_others() -> None:
    async with running_server(speech=SpeechConfig(max_pending_chars=50)) as server:
        async with server.dial(endpoint=ENDPOINT) as ws:
            await send(ws, of("a", text="Hello. "), of("bad", text="a" * 51), of("bad", text="b"))
            await send(ws, of("worse", text="REFUSE this. "), END)
            received, code = await receive_all(ws)
        assert code == 1000
        for context_id in ("bad", "worse"):
            error, final = received_of(received, context_id)
            assert (error["error"], error["code"]) == ("max_character_limit_exceeded", 1009)
            assert final["isFinal"] is True
        assert joined_audio(received_of(received, "a"))
        assert received_of(received, "a")[-1]["isFinal"] is True
        await assert_it_still_serves(server)


@pytest.mark.usefixtures("short_error_to_close")
async def test_the_inactivity_timeout_ends_the_socket_and_every_message_restarts_it() -> None:
    async with running_server() as server:
        async with server.dial(endpoint=ENDPOINT, inactivity_timeout=1) as ws:
            await send(ws, of("a", text=" "))
            start_s = trio.current_time()
            await trio.sleep(0.5)
            await send(ws, {"text": ""})
            received, code = await receive_all(ws)
            assert trio.current_time() - start_s > 1.4
        assert [one["error"] for one in received] == ["input_timeout_exceeded"]
        assert code == 1008
        await assert_it_still_serves(server)


@pytest.mark.usefixtures("short_error_to_close")
async def test_the_first_message_of_a_context_may_carry_the_key() -> None:
    async with running_server(locked()) as server:
        async with server.dial(endpoint=ENDPOINT) as ws:
            await send(ws, {"text": ""}, of("a", text="Hi.", xi_api_key=KEY), of("b", text="Ho."))
            await send(ws, END)
            received, code = await receive_all(ws)
        assert code == 1000
        assert joined_audio(received_of(received, "a"))
        assert joined_audio(received_of(received, "b"))
        for first in (of("a", text="Hi."), of("a", text="Hi.", xi_api_key="wrong")):
            async with server.dial(endpoint=ENDPOINT) as ws:
                await send(ws, first)
                received, code = await receive_all(ws)
            assert ([one["error"] for one in received], code) == (["invalid_api_key"], 1008)


async def test_a_hang_up_ends_every_context() -> None:
    gate = StepGate()
    runner = SineRunner(slots=3, step_gate=gate)
    config = Config(server=replace(TEST_SERVER, max_sessions=2))
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner, config) as server:
            idle = server.tasks()
            async with server.dial(endpoint=ENDPOINT) as ws:
                # Two hold slots and one waits, for the third slot is other sessions'; one more is
                # ending, and one has no text yet.
                for name in ("a", "b", "c"):
                    await send(ws, of(name, text="One two three four five six seven. "))
                await send(ws, of("c", flush=True), of("c", close_context=True))
                await send(ws, of("d", text="Half a"))
                await gate.held()
                await wait_all_tasks_blocked(0.02)
                assert server.state.engine.borrowed_slots == 2
                assert server.metric("csm_utterances_waiting") == 1
            await wait_all_tasks_blocked(0.02)
            gate.open()
            await until(lambda: server.tasks() == idle)
            assert server.state.engine.borrowed_slots == 0
            assert server.metric("csm_cancels_total", reason="hang_up") == 4


async def test_endless_text_is_cut_by_the_chunk_schedule_of_its_context() -> None:
    runner = SineRunner()
    words = "one and another word " * 12
    config = {"chunk_length_schedule": [50, 100]}
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner) as server, server.dial(endpoint=ENDPOINT) as ws:
            await send(ws, of("a", text=words, generation_config=config))
            # Only its length emits the first sentence.
            assert json.loads(await ws.get_message())["audio"]
            await send(ws, END)
            await receive_all(ws)
    lengths = [len(one.text) for one in runner.opened]
    assert 30 < lengths[0] <= 50 < lengths[1] <= 100
    assert " ".join(one.text for one in runner.opened) == words.strip()
