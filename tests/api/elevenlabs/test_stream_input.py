"""The `stream-input` socket without errors: deltas in, one stream of speech out."""

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from csm_trio.config import Config, SpeechConfig
from csm_trio.text.normalization.normalize import normalize
from support.client_calls import joined_audio, receive_all, running_server, send, sine_speech, until
from support.fakes import FRAME_SAMPLES, SineRunner, StepGate, sine_frames
from support.serving import TEST_SERVER, serving

TEXT = "Hello there, my friend. How are you today? I am quite well, thank you. Good."
SENTENCES = [
    "Hello there, my friend.",
    "How are you today?",
    "I am quite well, thank you.",
    "Good.",
]
EOS: dict[str, Any] = {"text": ""}
GUARD_S = 30.0

Messages = Sequence[dict[str, Any]]


async def converse(
    messages: Messages, voice: str = "default", **query: Any
) -> tuple[list[dict[str, Any]], SineRunner]:
    """Send all messages on one socket; return the messages received until its normal close."""
    runner = SineRunner()
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner) as server, server.dial(voice, **query) as ws:
            await send(ws, *messages)
            received, code = await receive_all(ws)
    assert code == 1000
    return received, runner


def assert_wire_form(received: Messages) -> None:
    """Check the keys of every message, and that exactly the last one is final."""
    *spoken, final = received
    assert final == {
        "audio": None,
        "isFinal": True,
        "normalizedAlignment": None,
        "alignment": None,
    }
    for message in spoken:
        alignments = {name: message[name] for name in ("alignment", "normalizedAlignment")}
        assert message == {**final, "isFinal": False, "audio": message["audio"], **alignments}
        # Only a sentence's end may come without audio.
        audio = base64.b64decode(message["audio"], validate=True)
        assert audio or alignments["alignment"]["chars"][-1] == " "


@pytest.mark.parametrize(
    "name", ["pcm_24000", "ulaw_8000", "pcm_16000", "mp3_22050_32", "wav_44100"]
)
async def test_all_sentences_are_one_stream_with_one_final_message(name: str) -> None:
    opener: dict[str, Any] = {"text": " ", "voice_settings": None, "generation_config": {}}
    received, runner = await converse([opener, {"text": TEXT}, EOS], output_format=name)
    assert_wire_form(received)
    assert [one.text for one in runner.opened] == SENTENCES
    assert joined_audio(received) == sine_speech(runner.opened, name)


async def test_the_first_messages_speed_holds_for_the_context() -> None:
    opener = {"text": " ", "voice_settings": {"speed": 0.9}}
    received, runner = await converse([opener, {"text": TEXT}, EOS])
    assert_wire_form(received)
    assert [one.text for one in runner.opened] == SENTENCES
    assert joined_audio(received) == sine_speech(runner.opened, "pcm_24000", speed=0.9)


async def test_the_default_format_is_pcm_of_24000_hz() -> None:
    received, runner = await converse([{"text": TEXT}, EOS])
    pcm = b"".join(frame.pcm.tobytes() for one in runner.opened for frame in sine_frames(one))
    assert joined_audio(received) == pcm


@pytest.mark.parametrize(
    "end",
    [
        {"text": ""},
        {"text": "", "try_trigger_generation": True, "flush": False},  # Vocode
        {"text": "", "flush": None, "of_nobody": 1},
    ],
)
async def test_an_empty_text_ends_the_stream(end: dict[str, Any]) -> None:
    received, runner = await converse([{"text": TEXT, "flush": False}, end])
    assert_wire_form(received)
    assert [one.text for one in runner.opened] == SENTENCES


@pytest.mark.parametrize("messages", [[EOS], [{"text": " "}, EOS], [{"text": " ... "}, EOS]])
async def test_a_stream_without_words_gets_only_the_final_message(messages: Messages) -> None:
    received, runner = await converse(messages)
    assert_wire_form(received)
    assert len(received) == 1
    assert runner.opened == []


async def test_text_after_the_end_of_input_is_ignored() -> None:
    received, runner = await converse([{"text": "One."}, EOS, {"text": "Two."}, EOS])
    assert_wire_form(received)
    assert [one.text for one in runner.opened] == ["One."]


# Splits of one text into deltas, which must not change the audio.
CUTS: dict[str, list[dict[str, Any]]] = {
    "characters": [{"text": char} for char in TEXT],
    "words": [{"text": f"{word} "} for word in TEXT.split()],
    "words with a hint": [
        {"text": f"{word} ", "try_trigger_generation": True} for word in TEXT.split()
    ],
    "sentences": [{"text": f"{sentence} "} for sentence in SENTENCES],
    "with keep-alives": [{"text": TEXT[:9]}, {}, {"of_nobody": 1}, {"text": TEXT[9:]}],
    "behind an opener": [{"text": " "}, {"text": TEXT}],
}


@pytest.mark.parametrize("cut", CUTS)
async def test_the_split_into_deltas_changes_neither_sentences_nor_audio(cut: str) -> None:
    whole, _ = await converse([{"text": TEXT}, EOS])
    received, runner = await converse([*CUTS[cut], EOS])
    assert_wire_form(received)
    assert [one.text for one in runner.opened] == SENTENCES
    assert joined_audio(received) == joined_audio(whole)


async def test_a_flush_synthesizes_the_buffered_text_and_ends_nothing() -> None:
    messages: Messages = [
        {"text": "No stop yet"},
        {"text": "", "flush": True},
        {"flush": True},
        {"text": "and no more", "flush": True},
        {"text": "here"},
        EOS,
    ]
    received, runner = await converse(messages)
    assert_wire_form(received)
    assert [one.text for one in runner.opened] == ["No stop yet", "and no more", "here"]


async def test_a_flush_yields_audio_before_more_text_is_sent() -> None:
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner) as server, server.dial() as ws:
            for text in ("No stop yet", "nor here"):
                await send(ws, {"text": text, "flush": True})
                frames = 2 * len(text.split())
                sound, chars = b"", ""
                while len(sound) < frames * FRAME_SAMPLES * 2 or chars != f"{text} ":
                    message = json.loads(await ws.get_message())
                    sound += joined_audio([message])
                    chars += "".join((message["alignment"] or {"chars": ""})["chars"])
            await send(ws, EOS)
            received, code = await receive_all(ws)
    assert_wire_form(received)
    assert (len(received), code) == (1, 1000)


async def test_in_auto_mode_every_message_is_synthesized_at_once() -> None:
    received, runner = await converse(
        [{"text": "Hel"}, {"text": "lo"}, {"text": " world"}, EOS], auto_mode="true"
    )
    assert_wire_form(received)
    assert [one.text for one in runner.opened] == ["Hel", "lo", "world"]


async def test_every_sentence_precedes_the_first_is_final() -> None:
    runner = SineRunner()
    sound = b""
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner) as server, server.dial() as ws:
            await send(ws, *({"text": f"{sentence} ", "flush": True} for sentence in SENTENCES))
            await send(ws, EOS)
            while not (message := json.loads(await ws.get_message()))["isFinal"]:
                sound += base64.b64decode(message["audio"])
    assert [one.text for one in runner.opened] == SENTENCES
    assert sound == sine_speech(runner.opened, "pcm_24000")


async def test_settings_of_a_message_hold_from_its_text_on() -> None:
    messages = [
        {"text": "One two. ", "speaker_id": 3},
        {"text": "Three four", "temperature": 0.25},
        {"text": "Five six. ", "speaker_id": 4, "top_k": 9, "temperature": 0.5},
        {"text": "Seven.", "max_audio_len_ms": 160},
        EOS,
    ]
    received, runner = await converse(messages, speaker_id=2, top_k=50)
    assert_wire_form(received)
    settings_used = [
        (one.text, one.speaker_id, one.sampling.temperature, one.sampling.top_k)
        for one in runner.opened
    ]
    assert settings_used == [
        ("One two.", 3, None, 50),
        ("Three four", 3, 0.25, 50),
        ("Five six.", 4, 0.5, 9),
        ("Seven.", 4, 0.5, 9),
    ]
    assert runner.opened[-1].max_frames == 2
    assert joined_audio(received) == sine_speech(runner.opened, "pcm_24000")


async def test_settings_of_the_query_hold_for_the_whole_stream() -> None:
    query: dict[str, Any] = {
        "speaker_id": 5,
        "temperature": 0.75,
        "top_k": 20,
        "max_audio_len_ms": 400,
        "seed": 8,
    }
    _, runner = await converse([{"text": TEXT}, EOS], "speaker_1", **query)
    for one in runner.opened:
        assert (one.speaker_id, one.max_frames) == (5, 5)
        assert (one.sampling.temperature, one.sampling.top_k) == (0.75, 20)
    seeds = [one.sampling.seed for one in runner.opened]
    assert seeds[0] == 8
    assert len(set(seeds)) == len(seeds)


async def test_characters_are_sent_with_their_audio_and_times_add_up() -> None:
    received, _ = await converse([{"text": TEXT}, EOS])
    found = [message["alignment"] for message in received if message["alignment"]]
    assert len(found) > len(SENTENCES)
    assert "".join(char for one in found for char in one["chars"]).split() == TEXT.split()
    spans = [one["charStartTimesMs"][-1] + one["charDurationsMs"][-1] for one in found]
    assert sum(spans) == len(joined_audio(received)) / 48
    assert all(sum(one["charDurationsMs"]) == span for one, span in zip(found, spans, strict=True))


async def test_alignment_can_be_switched_off() -> None:
    async with running_server(speech=SpeechConfig(alignment="off")) as server, server.dial() as ws:
        await send(ws, {"text": TEXT}, EOS)
        received, _ = await receive_all(ws)
    assert joined_audio(received)
    assert all(message["audio"] for message in received[:-1])
    assert {message["alignment"] for message in received} == {None}


async def test_unknown_parameters_of_the_vendor_change_nothing() -> None:
    vendor: dict[str, Any] = {
        "model_id": "eleven_flash_v2_5",
        "language_code": "en",
        "enable_logging": "true",
        "enable_ssml_parsing": "false",
        "sync_alignment": "true",
        "apply_text_normalization": "auto",
        "optimize_streaming_latency": 3,
    }
    plain, _ = await converse([{"text": TEXT}, EOS])
    received, _ = await converse([{"text": TEXT}, EOS], **vendor)
    assert joined_audio(received) == joined_audio(plain)


@pytest.mark.parametrize("buffer_size", [1, 2, 4])
async def test_the_first_chunk_waits_for_as_many_frames_as_the_buffer_holds(
    buffer_size: int,
) -> None:
    gate = StepGate()
    runner = SineRunner(step_gate=gate)
    received: list[dict[str, Any]] = []
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner) as server:
            try:
                async with (
                    server.dial(buffer_size=buffer_size) as ws,
                    trio.open_nursery() as nursery,
                ):

                    async def listen() -> None:
                        while not (received and received[-1]["isFinal"]):
                            received.append(json.loads(await ws.get_message()))

                    nursery.start_soon(listen)
                    await send(ws, {"text": "One two three four five six."}, EOS)
                    for _ in range(buffer_size - 1):
                        await gate.held()
                        gate.release()
                    await gate.held()  # the last frame is delivered
                    await wait_all_tasks_blocked(0.02)
                    assert received == []
                    gate.release()
                    await gate.held()
                    await wait_all_tasks_blocked(0.02)
                    assert len(joined_audio(received)) == buffer_size * FRAME_SAMPLES * 2
                    gate.open()
            finally:
                gate.open()
    assert joined_audio(received) == sine_speech(runner.opened, "pcm_24000")


async def test_eight_clients_of_three_slots_each_receive_their_own_audio() -> None:
    gate = StepGate()
    runner = SineRunner(slots=3, step_gate=gate)
    config = Config(server=replace(TEST_SERVER, max_sessions=8))
    received: dict[int, bytes] = {}

    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner, config) as server, trio.open_nursery() as nursery:

            async def converse_alone(client_id: int) -> None:
                async with server.dial(f"{client_id}", output_format="pcm_24000") as ws:
                    for sentence in sentences_of(client_id):
                        await send(ws, {"text": f"{sentence} "})
                    await send(ws, EOS)
                    messages, code = await receive_all(ws)
                    assert_wire_form(messages)
                    assert code == 1000
                    received[client_id] = joined_audio(messages)

            for client_id in range(8):
                nursery.start_soon(converse_alone, client_id)
            await gate.held()
            await until(lambda: server.metric("csm_utterances_waiting") == 5)
            gate.open()
    for client_id in range(8):
        own = [one for one in runner.opened if one.speaker_id == client_id]
        assert [one.text for one in own] == [
            normalize(text).text for text in sentences_of(client_id)
        ]
        assert received[client_id] == sine_speech(own, "pcm_24000")
    assert any(len(slots) == 3 for slots in runner.steps), "they did speak at the same time"


def sentences_of(client_id: int) -> list[str]:
    return [f"This is sentence {at} of client {client_id}." for at in range(1 + client_id % 3, 5)]


async def test_no_message_is_compressed_even_if_the_client_offers_it() -> None:
    offer = {"sec-websocket-extensions": "permessage-deflate; client_max_window_bits"}
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner) as server, server.dial(headers=offer) as ws:
            assert b"sec-websocket-extensions" not in dict(ws.handshake_headers)
            await send(ws, {"text": TEXT}, EOS)
            received, code = await receive_all(ws)
    assert code == 1000
    assert_wire_form(received)
