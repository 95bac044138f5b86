"""Speech that no client may lose: flushed turns, texts without words, directions, long silences."""

import io
import json
from typing import Any

import av
import numpy as np
import pytest

from support.client_calls import (
    SPEECH,
    http_client,
    joined_audio,
    receive_all,
    running_server,
    send,
    sine_speech,
)
from support.fakes import SineRunner
from support.serving import serving

MULTI = "text-to-speech/{voice}/multi-stream-input"
DIALOGUE = "text-to-dialogue/multi-stream-input"
END = {"close_socket": True}
SILENT_TEXTS = ["🙂", "...", "***", "—"]
FORMATS = [
    *("mp3_44100_128", "mp3_22050_32", "opus_48000_64", "m4a_aac_44100_128"),
    *("pcm_24000", "pcm_8000", "ulaw_8000", "alaw_8000", "wav_24000"),
]


def of_a(**fields: object) -> dict[str, object]:
    return {"context_id": "a", **fields}


TURNS: dict[str, list[dict[str, object]]] = {
    "text with its flush, then a close": [
        of_a(text=" "),
        of_a(text="Hello there, my friend.", flush=True),
        of_a(close_context=True),
    ],
    "all in one message, the context's first": [
        of_a(text="Hello there, my friend.", flush=True, close_context=True)
    ],
    "a flush without text, then a close": [
        of_a(text="Hello there, my friend."),
        of_a(flush=True),
        of_a(close_context=True),
    ],
}


@pytest.mark.parametrize("turn", TURNS)
async def test_a_flushed_turn_is_spoken_to_its_end_and_ends_once(turn: str) -> None:
    runner = SineRunner()
    async with (
        serving(lambda: runner) as server,
        server.dial(endpoint=MULTI, output_format="pcm_24000") as ws,
    ):
        await send(ws, *TURNS[turn], END)
        received, code = await receive_all(ws)
    assert code == 1000
    assert [utterance.text for utterance in runner.opened] == ["Hello there, my friend."]
    assert joined_audio(received) == sine_speech(runner.opened, "pcm_24000")
    assert [message["isFinal"] for message in received if message["isFinal"]] == [True]
    assert received[-1]["isFinal"] is True


@pytest.mark.parametrize(
    "turn",
    [
        [of_a(text="Hello there."), of_a(close_context=True)],
        [of_a(text="Hello.", flush=True), of_a(text="And"), of_a(close_context=True)],
        [of_a(text="Hi.", flush=True), of_a(close_context=True), of_a(close_context=True)],
        [of_a(text="Hello there.", close_context=True)],
    ],
)
async def test_a_barge_in_stays_a_barge_in(turn: list[dict[str, object]]) -> None:
    async with running_server() as server, server.dial(endpoint=MULTI) as ws:
        await send(ws, *turn, END)
        received, code = await receive_all(ws)
    assert code == 1000
    assert joined_audio(received) == b""
    assert len([message for message in received if message["isFinal"]]) <= 1


@pytest.mark.parametrize("text", SILENT_TEXTS)
@pytest.mark.parametrize("name", FORMATS)
async def test_a_text_without_words_is_a_short_silence_over_rest(text: str, name: str) -> None:
    async with running_server() as server, http_client(server) as client:
        answer = await client.post(f"{SPEECH}?output_format={name}", json={"text": text})
    assert answer.status_code == 200
    assert 0 < len(answer.content) < 20_000
    if name.startswith(("mp3", "opus", "m4a", "wav")):
        with av.open(io.BytesIO(answer.content), mode="r") as file:
            decoded = [frame.to_ndarray() for frame in file.decode(audio=0)]
        assert sum(frame.size for frame in decoded)
        assert max(np.abs(frame.astype(np.float64)).max() for frame in decoded) < 1e-3


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"{SPEECH}/stream?output_format=pcm_24000", {"text": "🙂"}),
        ("/v1/audio/speech", {"model": "tts-1", "voice": "alloy", "input": "🙂"}),
        ("/v1/audio/speech", {"model": "tts-1", "voice": "alloy", "input": "…", "speed": 0.8}),
        ("/v1/text-to-dialogue", {"inputs": [{"text": "[laughs]", "voice_id": "default"}]}),
    ],
)
async def test_every_endpoint_answers_it_alike(path: str, body: dict[str, Any]) -> None:
    async with running_server() as server, http_client(server) as client:
        answer = await client.post(path, json=body)
    assert answer.status_code == 200
    assert answer.content


@pytest.mark.parametrize("text", ["", " ", "\n"])
async def test_no_text_at_all_is_an_error(text: str) -> None:
    async with running_server() as server, http_client(server) as client:
        answer = await client.post(SPEECH, json={"text": text})
    assert answer.status_code in (400, 422)


@pytest.mark.parametrize(
    ("model_id", "spoken"),
    [
        ("eleven_v3", "Hello there."),
        ("eleven_v4_turbo", "Hello there."),
        ("eleven_multilingual_v2", "[laughs] Hello there."),
    ],
)
async def test_directions_are_for_the_models_that_have_them(model_id: str, spoken: str) -> None:
    runner = SineRunner()
    body = {"text": "[laughs] Hello there.", "model_id": model_id}
    async with serving(lambda: runner) as server, http_client(server) as client:
        answer = await client.post(f"{SPEECH}/with-timestamps", json=body)
    assert [utterance.text for utterance in runner.opened] == [spoken]
    aligned = answer.json()
    assert "".join(aligned["alignment"]["characters"]).strip() == body["text"]
    assert "".join(aligned["normalized_alignment"]["characters"]).strip() == spoken


async def test_directions_in_a_dialogue_are_not_spoken() -> None:
    runner = SineRunner()
    async with serving(lambda: runner) as server, server.dial(endpoint=DIALOGUE) as ws:
        inputs = [{"text": "[thoughtful] Well, hello.", "voice_id": "default"}]
        await send(ws, of_a(voices=["default"], inputs=inputs), of_a(close_context=True), END)
        received, _ = await receive_all(ws)
    assert [utterance.text for utterance in runner.opened] == ["Well, hello."]
    written = "".join(
        "".join(message["alignment"]["chars"])
        for message in received
        if message.get("alignment") is not None
    )
    assert written.strip() == "[thoughtful] Well, hello.", json.dumps(received[:1])
