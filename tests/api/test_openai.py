"""OpenAI's endpoints on real sockets: audio, events, lists and errors."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import trio

from csm_trio.audio.encoders import make_encoder
from csm_trio.audio.formats import OPENAI_FORMATS, AudioFormat
from csm_trio.config import Config, SpeechConfig
from csm_trio.protocol.openai import VOICE_NAMES
from support.client_calls import KEY, http_client, locked, running_server, ways_to_present
from support.fakes import SineRunner, StepGate, sine_frames
from support.serving import TEST_SERVER, serving

PATH = "/v1/audio/speech"
SPEECH: dict[str, Any] = {"model": "tts-1", "voice": "alloy", "input": "Hello there. How are you?"}
GUARD_S = 30.0


async def speak(**fields: object) -> tuple[httpx.Response, SineRunner]:
    """Make one request of a server of its own."""
    runner = SineRunner()
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner) as server, http_client(server) as client:
            answer = await client.post(PATH, json={**SPEECH, **fields})
    return answer, runner


@pytest.mark.parametrize("name", OPENAI_FORMATS)
async def test_every_format_is_streamed_as_it_is_encoded(name: str) -> None:
    answer, runner = await speak(response_format=name)
    assert answer.status_code == 200
    audio_format = AudioFormat.parse_openai(name)
    assert answer.headers["content-type"] == audio_format.content_type
    assert answer.headers["transfer-encoding"] == "chunked"
    encoder = make_encoder(audio_format)
    frames = [frame.pcm for one in runner.opened for frame in sine_frames(one)]
    whole = encoder.encode(np.concatenate(frames)) + encoder.finish()
    if name in ("pcm", "wav", "mp3"):  # the others' containers are cut into pages as they come
        assert answer.content == whole
    else:
        assert len(answer.content) > 500
        assert answer.content[:2] == whole[:2]


async def test_audio_is_sent_while_the_next_frame_is_being_made() -> None:
    gate = StepGate()
    runner = SineRunner(step_gate=gate)
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner) as server, http_client(server) as client:
            gate.release()
            try:
                requested = {**SPEECH, "response_format": "pcm"}
                async with client.stream("POST", PATH, json=requested) as answer:
                    body = answer.aiter_raw()
                    assert await anext(body)
                    steps_by_then = len(runner.steps)
                    gate.open()
                    assert [chunk async for chunk in body]
            finally:
                gate.open()
    assert steps_by_then <= 2


async def test_events_carry_the_same_audio_and_end_with_the_usage() -> None:
    plain, _ = await speak(response_format="pcm")
    answer, runner = await speak(response_format="pcm", stream_format="sse")
    assert answer.headers["content-type"].partition(";")[0] == "text/event-stream"
    *events, end = answer.text.split("\n\n")
    assert end == ""
    parsed = [json.loads(event.removeprefix("data: ")) for event in events]
    *deltas, done = parsed
    assert {one["type"] for one in deltas} == {"speech.audio.delta"}
    assert b"".join(base64.b64decode(one["audio"]) for one in deltas) == plain.content
    characters, frames = len(SPEECH["input"]), len(runner.steps) - len(runner.opened)
    assert done == {
        "type": "speech.audio.done",
        "usage": {
            "input_tokens": characters,
            "output_tokens": frames,
            "total_tokens": characters + frames,
        },
    }


async def test_instructions_are_not_spoken() -> None:
    _, runner = await speak(instructions="Whisper, please. Do not read this.")
    assert " ".join(one.text for one in runner.opened) == SPEECH["input"]


@pytest.mark.parametrize(
    ("voice", "speaker_id"),
    [("alloy", 1), ("ash", 0), ("cedar", 1), ("speaker_3", 3), ({"id": "speaker_2"}, 2), ("9", 9)],
)
async def test_a_voice_is_openais_name_or_a_voice_id_of_the_server(
    voice: object, speaker_id: int
) -> None:
    _, runner = await speak(voice=voice)
    assert {one.speaker_id for one in runner.opened} == {speaker_id}


async def test_every_openai_name_has_a_voice_on_openais_endpoints_only(tmp_path: Path) -> None:
    path = tmp_path / "voices.json"
    path.write_text(json.dumps({"zoe": 4, "abe": {"speaker_id": 5, "aliases": ["alloy"]}}))
    runner = SineRunner()
    config = Config(server=TEST_SERVER, speech=SpeechConfig(voices_file=path))
    async with serving(lambda: runner, config) as server, http_client(server) as client:
        for name in VOICE_NAMES:
            answer = await client.post(PATH, json={**SPEECH, "voice": name, "input": "Hi."})
            assert answer.status_code == 200
        for name, status in (("alloy", 200), ("ash", 404)):
            answer = await client.post(f"/v1/text-to-speech/{name}", json={"text": "Hi."})
            assert answer.status_code == status
    received = [one.speaker_id for one in runner.opened]
    assert received == [5, 5, 4, 5, 4, 5, 4, 5, 4, 5, 4, 5, 4, 5]


def error_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"error"}
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    assert isinstance(error, dict)
    return error


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"voice": "nobody"}, "voice", "invalid_value"),
        ({"input": "a" * 4097}, "input", "string_above_max_length"),
        ({"input": "REFUSE me."}, "input", "string_above_max_length"),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"response_format": "ogg"}, "response_format", "invalid_value"),
        ({"temperature": 9}, "temperature", "invalid_value"),
    ],
)
async def test_a_refusal_names_the_parameter(fields: dict[str, Any], param: str, code: str) -> None:
    answer, _ = await speak(**fields)
    assert answer.status_code == 400
    error = error_of(answer)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)


async def test_an_unknown_path_is_answered_in_the_same_form() -> None:
    async with running_server() as server, http_client(server) as client:
        for method, path, status in (
            ("GET", PATH, 405),
            ("POST", "/v1/audio/nowhere", 404),
            ("GET", "/v1/models/gpt-4", 404),
        ):
            answer = await client.request(method, path)
            assert answer.status_code == status
            assert error_of(answer)["type"] == "invalid_request_error"
        answer = await client.post(PATH, content=bytes((1 << 20) + 1))
        assert answer.status_code == 413
        error_of(answer)


async def test_speech_needs_the_key_but_the_two_lists_do_not() -> None:
    async with running_server(locked()) as server, http_client(server) as client:
        for query, headers in ways_to_present(KEY):
            answer = await client.post(PATH + query, json=SPEECH, headers=headers)
            assert answer.status_code == 200
        for headers in ({}, {"authorization": "Bearer wrong"}):
            answer = await client.post(PATH, json=SPEECH, headers=headers)
            assert answer.status_code == 401
            assert error_of(answer)["code"] == "invalid_api_key"
            assert (await client.get("/v1/models", headers=headers)).status_code == 401
        models = (await client.get("/v1/audio/models")).json()["models"]
        voices = (await client.get("/v1/audio/voices")).json()["voices"]
    assert {"id": "tts-1", "name": "tts-1"} in models
    assert {"id": "speaker_1", "name": "speaker_1"} in voices


async def test_a_full_server_sends_retry_after() -> None:
    one_place = replace(TEST_SERVER, max_sessions=1)
    async with running_server(one_place) as server, server.dial(), http_client(server) as client:
        answer = await client.post(PATH, json=SPEECH)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert error_of(answer)["code"] == "system_busy"


async def test_every_listed_model_can_be_shown() -> None:
    async with running_server() as server, http_client(server) as client:
        for model in (await client.get("/v1/models")).json()["data"]:
            assert (await client.get(f"/v1/models/{model['id']}")).json() == model
