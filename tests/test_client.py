"""The client's call: what it asks, how it times, and that it always ends."""

import json
from urllib.parse import parse_qsl, urlsplit

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock
from trio_websocket import WebSocketRequest

from csm_trio.audio.formats import AudioFormat
from csm_trio.audio.wav import wav_header
from csm_trio.client import Arrivals, Call, Deltas, SpeechTarget, SpeechTiming
from support.scripted_server import FINAL, all_text, close_code, scripted_server, spoken

PCM = AudioFormat.parse("pcm_24000")
SECOND = bytes(48_000)


async def text_of(*deltas: str) -> Deltas:
    for delta in deltas:
        yield delta


async def call(
    base_url: str, *deltas: str, api_key: str | None = None
) -> tuple[bytes, SpeechTiming]:
    received = bytearray()

    async def listen(chunk: bytes) -> None:
        received.extend(chunk)

    target = SpeechTarget(base_url, api_key=api_key)
    timing = await Call(target).speak(text_of(*deltas), listen)
    return bytes(received), timing


async def test_every_chunk_arrives_in_order_until_the_final_message() -> None:
    async def script(request: WebSocketRequest) -> None:
        socket = await request.accept()
        assert await all_text(socket) == ["Hello ", "you."]
        for frame in (spoken(b"ab"), spoken(b""), spoken(b"cd"), FINAL):
            await socket.send_message(frame)
        assert await close_code(socket) == 1000

    async with scripted_server(script) as url:
        received, timing = await call(url, "Hello ", "you.")
    assert (received, timing.chunks) == (b"abcd", 2)


async def test_an_empty_delta_does_not_end_the_stream() -> None:
    async def script(request: WebSocketRequest) -> None:
        socket = await request.accept()
        assert await all_text(socket) == ["One.", " Two."]
        await socket.send_message(FINAL)

    async with scripted_server(script) as url:
        received, timing = await call(url, "One.", "", " Two.")
    assert (received, timing.first_audio_s) == (b"", None)


async def test_unknown_keys_and_messages_without_audio_are_ignored() -> None:
    frames = [
        {"surprise": [1]},
        {"audio": None, "isFinal": None, "alignment": {"chars": []}},
        {"audio": "YWI=", "isFinal": False, "contextId": "x", "message": "hello"},
        {"audio": "Y2Q=", "isFinal": True, "error": None},
    ]

    async def script(request: WebSocketRequest) -> None:
        socket = await request.accept()
        for frame in frames:
            await socket.send_message(json.dumps(frame))

    async with scripted_server(script) as url:
        received, _ = await call(url, "Hi.")
    assert received == b"abcd"


async def test_a_message_of_twelve_mebibytes_is_accepted() -> None:
    async def script(request: WebSocketRequest) -> None:
        socket = await request.accept()
        await socket.send_message(spoken(bytes(9 << 20)))
        await socket.send_message(FINAL)

    async with scripted_server(script) as url:
        received, _ = await call(url, "Hi.")
    assert len(received) == 9 << 20


async def test_the_key_travels_as_a_header_and_never_in_the_address() -> None:
    asked: list[tuple[dict[bytes, bytes], str]] = []

    async def script(request: WebSocketRequest) -> None:
        asked.append((dict(request.headers), request.path))
        await (await request.accept()).send_message(FINAL)

    async with scripted_server(script) as url:
        await call(url, "Hi.", api_key="s3cret")
        await call(url, "Hi.")
    (with_key, path), (without_key, _) = asked
    assert with_key[b"xi-api-key"] == b"s3cret"
    assert b"xi-api-key" not in without_key
    assert "s3cret" not in path
    assert "s3cret" not in repr(SpeechTarget(api_key="s3cret"))


# voice, settings, path, query beyond the inactivity timeout
ADDRESSES: list[tuple[str, dict[str, float], str, dict[str, str]]] = [
    ("default", {}, "/v1/text-to-speech/default/stream-input", {}),
    ("a/b c?", {}, "/v1/text-to-speech/a%2Fb%20c%3F/stream-input", {}),
    (
        "7",
        {"speaker_id": 0, "temperature": 0.0, "top_k": 1, "seed": 5, "max_audio_len_ms": 800},
        "/v1/text-to-speech/7/stream-input",
        {"speaker_id": "0", "temperature": "0.0", "top_k": "1", "seed": "5"}
        | {"max_audio_len_ms": "800"},
    ),
]


@pytest.mark.parametrize(("voice", "settings", "path", "query"), ADDRESSES)
def test_the_url_holds_exactly_the_settings_given(
    voice: str, settings: dict[str, float], path: str, query: dict[str, str]
) -> None:
    target = SpeechTarget("wss://h:1/tts", voice, AudioFormat.parse("ulaw_8000"), settings)
    parts = urlsplit(target.resource)
    assert parts.path == "/tts" + path
    always = {"output_format": "ulaw_8000", "inactivity_timeout": "180"}
    assert dict(parse_qsl(parts.query)) == query | always


async def test_times_are_counted_from_the_first_text_to_the_audio(mock_clock: MockClock) -> None:
    send_received, received = trio.open_memory_channel[bytes](0)

    async def script(request: WebSocketRequest) -> None:
        socket = await request.accept()
        await all_text(socket)
        for wait_s in (0.25, 0.75):
            mock_clock.jump(wait_s)
            await socket.send_message(spoken(SECOND))
            await received.receive()
        mock_clock.jump(5)
        await socket.send_message(FINAL)

    async with scripted_server(script) as url:
        timing = await Call(SpeechTarget(url)).speak(text_of("Hello."), send_received.send)
    assert timing == SpeechTiming(first_audio_s=0.25, audio_s=2.0, real_time_factor=0.5, chunks=2)


def test_a_wav_header_alone_does_not_count_as_audio() -> None:
    arrivals = Arrivals(AudioFormat.parse("wav_24000"))
    arrivals.note_text(1.0)
    arrivals.note_audio(len(wav_header(24_000, data_bytes=None)), 2.0)
    assert arrivals.timing().first_audio_s is None
    arrivals.note_audio(48_000, 3.0)
    assert arrivals.timing() == SpeechTiming(2.0, 1.0, 2.0, 2)


gaps_s = st.floats(0, 60)


@given(st.lists(st.tuples(st.integers(1, 100_000), gaps_s), min_size=1), gaps_s)
def test_the_factor_times_the_audio_is_the_time_of_the_last_chunk(
    chunks: list[tuple[int, float]], start_s: float
) -> None:
    arrivals = Arrivals(PCM)
    arrivals.note_text(start_s)
    now_s = start_s
    for n_bytes, gap_s in chunks:
        now_s += gap_s
        arrivals.note_text(now_s)  # only the first text counts
        arrivals.note_audio(n_bytes, now_s)
    timing = arrivals.timing()
    assert timing.first_audio_s == pytest.approx(chunks[0][1])
    assert timing.audio_s == pytest.approx(sum(n_bytes for n_bytes, _ in chunks) / 48_000)
    assert timing.real_time_factor is not None
    assert timing.audio_s is not None
    assert timing.real_time_factor * timing.audio_s == pytest.approx(now_s - start_s)
    assert timing.chunks == len(chunks)


def test_for_variable_rates_only_arrival_times_are_known() -> None:
    arrivals = Arrivals(AudioFormat.parse("opus_48000_64"))
    arrivals.note_text(1.0)
    arrivals.note_audio(800, 3.0)
    assert arrivals.timing() == SpeechTiming(2.0, None, None, 1)


def test_the_summary_is_one_line() -> None:
    assert str(SpeechTiming(0.1434, 3.52, 0.3149, 44)) == (
        "first audio 143 ms | audio 3.52 s | real-time factor 0.31 | 44 chunks"
    )
    assert str(SpeechTiming(0.1434, None, None, 44)) == "first audio 143 ms | 44 chunks"
    assert str(SpeechTiming(None, 0.0, None, 0)) == "no audio: the text was empty"
