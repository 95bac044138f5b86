"""Alignment on every endpoint: all of the text and all of the audio, in order."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import trio

from csm_trio.config import Config, SpeechConfig
from support.client_calls import GUARD_S, joined_audio, receive_all, send, until
from support.fakes import SineRunner, StepGate, sine_frames
from support.serving import TEST_SERVER, serving
from support.timestamp_client import (
    BREAK_MS,
    CAMEL,
    DIALOGUE,
    ENDPOINTS,
    MULTI,
    MULTI_DIALOGUE,
    SNAKE,
    SPOKEN,
    WRITTEN,
    Message,
    ReceivedSpeech,
    receive,
)


def audio_ms(runner: SineRunner, speed: float = 1.0) -> int:
    """Return the duration of a runner's audio and the pause in TEXT."""
    messages = sum(len(sine_frames(one)) for one in runner.opened)
    return round((messages + round(BREAK_MS / 80 * speed)) * 80 / speed)


@pytest.mark.parametrize("speed", [0.8, 1.0, 1.2])
@pytest.mark.parametrize("output_format", ["pcm_24000", "mp3_44100_64", "opus_48000_32"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_alignments_cover_every_character_and_all_audio_in_order(
    endpoint: str, output_format: str, speed: float
) -> None:
    runner = SineRunner()
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner) as server:
            received = await receive(server, endpoint, speed=speed, output_format=output_format)
    assert (received.written.text, received.spoken.text) == (WRITTEN, SPOKEN)
    assert received.written.clock_ms == received.spoken.clock_ms == audio_ms(runner, speed)
    if output_format == "pcm_24000":
        assert len(received.audio) / 48 == pytest.approx(received.written.clock_ms, abs=1)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_a_sentence_split_into_utterances_loses_no_character(endpoint: str) -> None:
    written = f"{'they paid $5.20 for it and ' * 30}left. "
    runner = SineRunner()
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner) as server:
            received = await receive(server, endpoint, written)
    assert len(runner.opened) > 2
    assert received.written.text == written
    assert received.spoken.text == written.replace("$5.20", "five dollars and twenty cents")
    assert received.written.clock_ms == received.spoken.clock_ms == len(received.audio) / 48


async def test_with_sync_alignment_times_count_from_the_contexts_start() -> None:
    runner = SineRunner()
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner) as server:
            received = await receive(server, MULTI, sync=True)
    assert (received.written.text, received.spoken.text) == (WRITTEN, SPOKEN)
    assert received.written.clock_ms == audio_ms(runner)


def of_context(messages: Sequence[Message], name: str, endpoint: str) -> ReceivedSpeech:
    names = SNAKE if endpoint == MULTI_DIALOGUE else CAMEL
    own = [message for message in messages if message["context_id"] == name]
    return ReceivedSpeech.of_messages(own, names, absolute=endpoint == MULTI)


async def open_context(ws: Any, endpoint: str, name: str, text: str) -> None:
    if endpoint == MULTI_DIALOGUE:
        await send(ws, {"context_id": name, "voices": ["default"], "inputs": [{"text": text}]})
    else:
        await send(ws, {"context_id": name, "text": text})


@pytest.mark.parametrize("endpoint", [MULTI, MULTI_DIALOGUE])
async def test_each_context_has_its_own_clock_even_if_another_is_cancelled(
    endpoint: str,
) -> None:
    gate = StepGate()
    runner = SineRunner(step_gate=gate)
    long, short, again = "Cut me off FRAMES=400 please. ", "Hear me out to the end. ", "Me again. "
    messages: list[Message] = []
    with trio.fail_after(GUARD_S):
        async with (
            serving(lambda: runner) as server,
            server.dial(endpoint=endpoint, sync_alignment="true") as ws,
        ):
            await open_context(ws, endpoint, "a", long)
            await open_context(ws, endpoint, "b", short)
            said_chars = len(long) + len(short)
            gate.release(20)
            while not (messages and of_context(messages, "a", endpoint).written.text):
                messages.append(json.loads(await ws.get_message()))
            close = {"context_id": "a", "close_context": True}
            await send(ws, close, close)  # twice: on the dialogue socket the second one cancels
            await open_context(ws, endpoint, "sent after the close", "Hm. ")
            await until(lambda: server.metric("csm_characters_total") == said_chars + len("Hm. "))
            gate.open()
            while not (messages[-1].get("is_final") and messages[-1]["context_id"] == "a"):
                messages.append(json.loads(await ws.get_message()))
            cancelled = of_context(messages, "a", endpoint)
            await open_context(ws, endpoint, "a", again)
            await send(ws, {"close_socket": True})
            later, code = await receive_all(ws)
    assert code == 1000
    assert cancelled.written.text
    assert long.startswith(cancelled.written.text)
    assert len(cancelled.audio) / 48 < 400 * 80
    assert cancelled.written.clock_ms <= len(cancelled.audio) / 48
    for received, text in (
        (of_context(later, "a", endpoint), again),
        (of_context([*messages, *later], "b", endpoint), short),
    ):
        assert received.written.text == received.spoken.text == text
        assert received.written.clock_ms == len(received.audio) / 48


@pytest.mark.parametrize("endpoint", [DIALOGUE, MULTI_DIALOGUE])
async def test_in_a_dialogue_times_count_from_each_messages_own_start(endpoint: str) -> None:
    # A client that counts from the audio it has, as LiveKit does, needs words in order too.
    words = "Slowly said FRAMES=90 now. "
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner) as server, server.dial(endpoint=endpoint) as ws:
            await open_context(ws, MULTI_DIALOGUE, "a", words)
            await send(ws, {"close_socket": True})
            messages, _ = await receive_all(ws)
    at_ms, starts_ms = 0.0, []
    silent = [
        message for message in messages if message.get("audio") and message["alignment"] is None
    ]
    assert silent, "with so few words some messages have no character"
    for message in messages:
        own_ms = len(joined_audio([message])) / 48
        if alignment := message.get("alignment"):
            starts = alignment["char_start_times_ms"]
            assert all(0 <= start <= own_ms for start in starts)
            starts_ms += [at_ms + start for start in starts]
        at_ms += own_ms
    assert all(one <= other for one, other in pairwise(starts_ms))


@pytest.mark.parametrize("endpoint", [DIALOGUE, MULTI_DIALOGUE, *ENDPOINTS[4:]])
async def test_alignment_can_be_switched_off_on_every_endpoint(endpoint: str) -> None:
    config = Config(server=TEST_SERVER, speech=SpeechConfig(alignment="off"))
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner, config) as server:
            received = await receive(server, endpoint)
    assert received.audio
    assert received.written.text == received.spoken.text == ""
