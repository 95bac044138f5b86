"""Dialogues of two voices, on both sockets and over REST, each with the other in its prompt."""

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import pytest
import trio
from trio_websocket import WebSocketConnection

from csm_trio.config import Config, SpeechConfig
from csm_trio.engine.utterance import Utterance
from support.client_calls import (
    KEY,
    assert_it_still_serves,
    detail_of,
    http_client,
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

SINGLE = "text-to-dialogue/stream-input"
MULTI = "text-to-dialogue/multi-stream-input"
REST = "/v1/text-to-dialogue"
GUARD_S = 30.0
ANN, BOB = "speaker_2", "speaker_3"
TURN_DONE = {"is_final_audio_for_turn": True}
LINES = [
    (ANN, "Hello, how are you?"),
    (BOB, "Quite well. And yourself?"),
    (ANN, "Fine."),
    (ANN, "Shall we go"),
    (BOB, "Let us."),
]
SPOKEN = [
    (2, "Hello, how are you?"),
    (3, "Quite well."),
    (3, "And yourself?"),
    (2, "Fine."),
    (2, "Shall we go"),
    (3, "Let us."),
]


def inputs(**fields: Any) -> list[dict[str, Any]]:
    return [{"text": text, "voice_id": voice_id, **fields} for voice_id, text in LINES]


def assert_synthesized(opened: Sequence[Utterance]) -> None:
    """Check each utterance's voice and prompt: the last turn of either voice, in order."""
    assert [(one.speaker_id, one.text) for one in opened] == SPOKEN
    received = [[(turn.speaker_id, turn.text) for turn in one.history] for one in opened]
    assert received == [
        [],
        SPOKEN[:1],
        SPOKEN[:2],
        [SPOKEN[0], SPOKEN[2]],
        [SPOKEN[2], SPOKEN[3]],
        [SPOKEN[2], SPOKEN[4]],
    ]


async def test_the_plain_socket_synthesizes_each_input_in_its_voice_with_both_in_the_prompt() -> (
    None
):
    runner = SineRunner()
    with trio.fail_after(GUARD_S):
        async with (
            serving(lambda: runner) as server,
            server.dial(
                endpoint=SINGLE, model_id="eleven_v4_turbo", output_format="pcm_16000"
            ) as ws,
        ):
            await send(ws, {"voices": [ANN, BOB], "voice_settings": {"stability": 0.5}})
            await send(ws, {"inputs": inputs(new_turn=True)}, {"keep_alive": True}, {"flush": True})
            await send(ws, {"close_socket": True})
            received, code = await receive_all(ws)
    assert_synthesized(runner.opened)
    assert joined_audio(received) == sine_speech(runner.opened, "pcm_16000")
    assert (received[-1], code) == ({"is_final": True}, 1000)
    assert received.count(TURN_DONE) == len(LINES)
    assert all(
        message.keys() == {"audio", "alignment", "normalized_alignment"}
        for message in received[:-1]
        if message != TURN_DONE
    )


def by_turns(received: Sequence[dict[str, Any]]) -> list[bytes]:
    """Return the audio of every completed turn, and then the rest."""
    ends = [at for at, message in enumerate(received) if "is_final_audio_for_turn" in message]
    assert all(received[at]["is_final_audio_for_turn"] is True for at in ends)
    return [joined_audio(received[begin:end]) for begin, end in pairwise([0, *ends, len(received)])]


@pytest.mark.parametrize("endpoint", [SINGLE, MULTI])
@pytest.mark.parametrize("alignment", ["on", "off"])
async def test_a_turn_ends_at_a_change_of_voice_or_at_a_flush(
    endpoint: str, alignment: Literal["on", "off"]
) -> None:
    runner = SineRunner()
    config = Config(server=TEST_SERVER, speech=SpeechConfig(alignment=alignment))
    with trio.fail_after(GUARD_S):
        async with (
            serving(lambda: runner, config) as server,
            server.dial(endpoint=endpoint, buffer_size=3) as ws,
        ):
            await send(ws, {"context_id": "a", "voices": [ANN, BOB]})
            await send(ws, {"context_id": "a", "inputs": inputs()})
            await send(ws, {"context_id": "a", "inputs": [{"text": "Go?", "voice_id": BOB}]})
            last = {"text": "Go.", "voice_id": BOB, "new_turn": True}
            await send(ws, {"context_id": "a", "inputs": [last]}, {"close_socket": True})
            received, _ = await receive_all(ws)
    texts = [one.text for one in runner.opened]
    assert texts == [*(text for _, text in SPOKEN[:3]), "Fine.", "Shall we go", "Let us.Go?", "Go."]
    turns = [runner.opened[begin:end] for begin, end in pairwise([0, 1, 3, 5, 6, 7])]
    assert by_turns(received) == [*(sine_speech(turn, "pcm_24000") for turn in turns), b""]
    named = {"context_id": "a"} if endpoint == MULTI else {}
    assert received[-2:] == [{**TURN_DONE, **named}, {"is_final": True, **named}]


async def test_a_client_can_wait_for_the_end_of_each_turn_that_it_flushes() -> None:
    silent = {"inputs": [{"text": "...", "voice_id": ANN}], "flush": True}
    with trio.fail_after(GUARD_S):
        async with running_server() as server, server.dial(endpoint=SINGLE, buffer_size=25) as ws:
            await send(ws, {"voices": [ANN]}, {"flush": True})
            for text in ("One", "Two. ", "Three"):
                await send(ws, {"inputs": [{"text": text, "voice_id": ANN}]}, {"flush": True})
                received = await receive_turn(ws)
                assert joined_audio(received) == sine_speech([synthesized_alone(text)], "pcm_24000")
            await send(ws, silent)
            assert await receive_turn(ws) == [TURN_DONE]
            await send(ws, {"flush": True}, {"close_socket": True})
            assert (await receive_all(ws))[0] == [{"is_final": True}]


async def receive_turn(ws: WebSocketConnection) -> list[dict[str, Any]]:
    """Return the messages up to the end of a turn."""
    received: list[dict[str, Any]] = []
    while TURN_DONE not in received:
        received.append(json.loads(await ws.get_message()))
    return received


def synthesized_alone(text: str) -> Utterance:
    return Utterance(text.strip(), speaker_id=2, max_frames=100)


async def test_audio_that_the_encoder_held_back_belongs_to_the_last_turn() -> None:
    runner = SineRunner()
    with trio.fail_after(GUARD_S):
        async with (
            serving(lambda: runner) as server,
            server.dial(endpoint=SINGLE, output_format="mp3_44100_64") as ws,
        ):
            await send(ws, {"voices": [ANN, BOB]}, {"inputs": inputs()}, {"close_socket": True})
            received, _ = await receive_all(ws)
    assert joined_audio(received) == sine_speech(runner.opened, "mp3_44100_64")
    assert by_turns(received)[-1] == b""
    assert received[-2:] == [TURN_DONE, {"is_final": True}]


async def test_a_cancelled_turn_sends_no_turn_end() -> None:
    gate = StepGate()
    text = "Hello FRAMES=200 there."
    close = {"context_id": "a", "close_context": True}
    with trio.fail_after(GUARD_S):
        async with (
            serving(lambda: SineRunner(step_gate=gate)) as server,
            server.dial(endpoint=MULTI) as ws,
        ):
            await send(ws, {"context_id": "a", "voices": [ANN]})
            await send(ws, {"context_id": "a", "inputs": [{"text": text}]}, close)
            gate.release(2)
            json.loads(await ws.get_message())
            await send(ws, close, {"context_id": "b", "voices": [BOB], "inputs": [{"text": "Hm."}]})
            await until(lambda: server.metric("csm_characters_total") == len(text) + len("Hm."))
            gate.open()
            await send(ws, {"close_socket": True})
            received, code = await receive_all(ws)
    assert code == 1000
    of_a = [message for message in received if message["context_id"] == "a"]
    assert of_a[-1] == {"is_final": True, "context_id": "a"}
    assert all("is_final_audio_for_turn" not in message for message in of_a)


async def test_contexts_are_separate_dialogues_and_a_close_synthesizes_the_remaining_text() -> None:
    runner = SineRunner()
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner) as server, server.dial(endpoint=MULTI) as ws:
            for name, voice in (("a", ANN), ("b", BOB), ("alive", ANN)):
                await send(ws, {"context_id": name, "voices": [voice]})
            await send(ws, {"context_id": "a", "inputs": [{"text": "Hello", "voice_id": ANN}]})
            await send(ws, {"context_id": "b", "inputs": [{"text": "Hi", "voice_id": BOB}]})
            await send(ws, {"context_id": "a", "close_context": True})
            await send(ws, {"context_id": "alive", "keep_alive": True}, {"close_socket": True})
            received, code = await receive_all(ws)
    assert code == 1000
    for name, speaker_id in (("a", 2), ("b", 3)):
        of_context = [message for message in received if message["context_id"] == name]
        own = [one for one in runner.opened if one.speaker_id == speaker_id]
        assert joined_audio(of_context) == sine_speech(own, "pcm_24000")
        assert of_context[-1] == {"is_final": True, "context_id": name}
    assert [one["context_id"] for one in received if one.get("is_final")].count("alive") == 1


@pytest.mark.usefixtures("short_error_to_close")
@pytest.mark.parametrize("endpoint", [SINGLE, MULTI])
@pytest.mark.parametrize(
    ("messages", "error", "words"),
    [
        ([{"inputs": []}, {"inputs": [{"text": "Hi."}]}], "invalid_input_message", "voices must"),
        ([{"voices": ["nobody"]}], "voice_id_does_not_exist", "nobody"),
        ([{"voices": [ANN]}, {"voices": [ANN]}], "invalid_input_message", "voices can only be set"),
        (["{no json"], "invalid_input_message", "Could not parse"),
    ],
)
async def test_a_wrong_message_is_answered_with_one_error_and_a_close(
    endpoint: str, messages: list[Any], error: str, words: str
) -> None:
    async with running_server() as server:
        async with server.dial(endpoint=endpoint) as ws:
            for message in messages:
                await send(
                    ws, message if isinstance(message, str) else {"context_id": "a", **message}
                )
            received, code = await receive_all(ws)
        assert [(one["error"], one["code"]) for one in received] == [(error, 1008)]
        assert words in received[0]["message"]
        assert code == 1008
        await assert_it_still_serves(server)


@pytest.mark.usefixtures("short_error_to_close")
async def test_a_dialogue_needs_the_key_like_every_endpoint() -> None:
    async with running_server(locked()) as server:
        for key in (KEY, "wrong", None):
            async with server.dial(endpoint=SINGLE) as ws:
                shown = {} if key is None else {"xi_api_key": key}
                await send(ws, {"voices": [ANN], **shown}, {"close_socket": True})
                received, code = await receive_all(ws)
            assert code == (1000 if key == KEY else 1008)
            assert received[0].get("error") == (None if key == KEY else "invalid_api_key")
        async with http_client(server) as client:
            answer = await client.post(REST, json={"inputs": inputs()})
            assert answer.status_code == 401


@pytest.mark.parametrize("endpoint", [REST, f"{REST}/stream"])
async def test_rest_synthesizes_each_input_in_its_voice_with_both_in_the_prompt(
    endpoint: str,
) -> None:
    runner = SineRunner()
    body = {
        "inputs": inputs(),
        "model_id": "eleven_v3",
        "settings": {"stability": 1},
        "seed": 7,
        "surprise": True,
    }
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner) as server, http_client(server) as client:
            answer = await client.post(f"{endpoint}?output_format=pcm_24000", json=body)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "audio/pcm"
    assert answer.headers["character-cost"] == str(sum(len(text) for _, text in LINES))
    assert answer.content == sine_speech(runner.opened, "pcm_24000")
    assert_synthesized(runner.opened)
    assert all(one.sampling.temperature_scale == 0.5 for one in runner.opened)
    assert runner.opened[0].sampling.seed == 7


@pytest.mark.parametrize("endpoint", [f"{REST}/with-timestamps", f"{REST}/stream/with-timestamps"])
async def test_with_timestamps_each_input_has_a_segment_in_text_and_time(endpoint: str) -> None:
    runner = SineRunner()
    lines = [*inputs(), {"text": "...", "voice_id": ANN}, {"text": "So be it.", "voice_id": ANN}]
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner) as server, http_client(server) as client:
            answer = await client.post(
                f"{endpoint}?output_format=pcm_24000",
                json={"inputs": lines},
                headers={"accept": "application/json"},
            )
    assert answer.status_code == 200
    objects = [json.loads(line) for line in answer.content.splitlines()]
    assert joined_objects(objects) == sine_speech(runner.opened, "pcm_24000")
    segments = [Segment("", math.inf, 0.0) for _ in lines]
    for one in objects:
        characters = one["alignment"]["characters"] if one["alignment"] else []
        for part in one["voice_segments"]:
            index = part["dialogue_input_index"]
            assert part["voice_id"] == lines[index]["voice_id"]
            segments[index].extend(part, characters)
    silent = segments.pop(5)
    del lines[5]
    assert silent == Segment("", math.inf, 0.0)
    assert [one.text for one in segments] == [f"{line['text']} " for line in lines]
    starts_s = [0.0]
    for begin, end in pairwise([0, 1, 3, 4, 5, 6, 7]):
        input_bytes = len(sine_speech(runner.opened[begin:end], "pcm_24000"))
        starts_s.append(starts_s[-1] + input_bytes / 48_000)
    assert [one.start_s for one in segments] == pytest.approx(starts_s[:-1])
    assert [one.end_s for one in segments] == pytest.approx(starts_s[1:])


@dataclass
class Segment:
    """The voice segments of one input, merged."""

    text: str
    start_s: float
    end_s: float

    def extend(self, part: dict[str, Any], characters: list[str]) -> None:
        begin, end = part["character_start_index"], part["character_end_index"]
        self.text += "".join(characters[begin:end])
        self.start_s = min(self.start_s, part["start_time_seconds"])
        self.end_s = part["end_time_seconds"]


def joined_objects(objects: Sequence[dict[str, Any]]) -> bytes:
    for one in objects:
        assert one.keys() == {
            "audio_base64",
            "alignment",
            "normalized_alignment",
            "voice_segments",
        }
    return b"".join(base64.b64decode(one["audio_base64"]) for one in objects)


def one_input(**fields: Any) -> dict[str, Any]:
    return {"inputs": [{"text": "Hi.", "voice_id": ANN, **fields}]}


WRONG: list[tuple[Any, int, list[str]]] = [
    ({}, 422, ["body", "inputs"]),
    ({"inputs": []}, 422, ["body", "inputs"]),
    ({"inputs": "Hi."}, 422, ["body", "inputs"]),
    ({"inputs": ["Hi."]}, 422, ["body", "inputs"]),
    (one_input(voice_id=None), 422, ["body", "inputs", "0", "voice_id"]),
    (one_input(text=" "), 422, ["body", "inputs", "0", "text"]),
    (one_input(text=5), 422, ["body", "inputs", "0", "text"]),
    ({**one_input(), "settings": {"stability": 2}}, 422, ["body", "settings", "stability"]),
    ({"inputs": [{"text": "Hi.", "voice_id": f"{n}"} for n in range(11)]}, 422, ["body", "inputs"]),
    (one_input(voice_id="nobody"), 404, ["voice_not_found"]),
    ({"inputs": 3 * one_input(text="a" * 40)["inputs"]}, 413, ["text_too_long"]),
]


@pytest.mark.parametrize(("body", "status", "named"), WRONG)
async def test_rest_names_the_wrong_field(body: Any, status: int, named: list[str]) -> None:
    async with running_server(speech=SpeechConfig(max_text_chars=100)) as server:
        async with http_client(server) as client:
            answer = await client.post(REST, json=body)
        assert answer.status_code == status
        if status == 422:
            assert [one["loc"] for one in answer.json()["detail"]] == [named]
        else:
            assert detail_of(answer)["code"] == named[0]
        await assert_it_still_serves(server)


async def test_a_full_server_refuses_a_dialogue_too() -> None:
    config = Config(server=TEST_SERVER)
    with trio.fail_after(GUARD_S):
        async with (
            serving(lambda: SineRunner(slots=1), config) as server,
            http_client(server) as client,
        ):
            async with server.dial(endpoint=SINGLE):
                answer = await client.post(REST, json={"inputs": inputs()})
            assert answer.status_code == 503
            assert detail_of(answer)["status"] == "system_busy"
