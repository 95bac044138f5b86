"""The REST endpoints on real sockets: text, bytes and headers."""

import base64
import io
import json
import struct
from typing import Any

import av
import httpx
import pytest
import trio

from csm_trio.api.connection_limits import ConnectionLimits
from csm_trio.audio.formats import FORMATS
from csm_trio.voices import VoiceCatalog
from support.client_calls import SPEECH, http_client, sine_speech, until
from support.fakes import FRAME_SAMPLES, SAMPLE_RATE_HZ, SineRunner, StepGate, sine_frames
from support.serving import http_post, serving

TEXT = "Hello there, my friend. How are you today? I am quite well, thank you."
SENTENCES = ["Hello there, my friend.", "How are you today?", "I am quite well, thank you."]
FRAMES = 2 * len(TEXT.split())
TIMESTAMPS = f"{SPEECH}/stream/with-timestamps"
GUARD_S = 30.0

# output_format, content type, samples a second, bytes a sample (None: only a decoder knows)
TABLE: list[tuple[str, str, int, int | None]] = [
    ("pcm_8000", "audio/pcm", 8_000, 2),
    ("pcm_16000", "audio/pcm", 16_000, 2),
    ("pcm_22050", "audio/pcm", 22_050, 2),
    ("pcm_24000", "audio/pcm", 24_000, 2),
    ("pcm_32000", "audio/pcm", 32_000, 2),
    ("pcm_44100", "audio/pcm", 44_100, 2),
    ("pcm_48000", "audio/pcm", 48_000, 2),
    ("ulaw_8000", "audio/basic", 8_000, 1),
    ("alaw_8000", "audio/PCMA", 8_000, 1),
    ("wav_8000", "audio/wav", 8_000, 2),
    ("wav_16000", "audio/wav", 16_000, 2),
    ("wav_22050", "audio/wav", 22_050, 2),
    ("wav_24000", "audio/wav", 24_000, 2),
    ("wav_32000", "audio/wav", 32_000, 2),
    ("wav_44100", "audio/wav", 44_100, 2),
    ("wav_48000", "audio/wav", 48_000, 2),
    ("mp3_22050_32", "audio/mpeg", 22_050, None),
    ("mp3_24000_48", "audio/mpeg", 24_000, None),
    ("mp3_44100_32", "audio/mpeg", 44_100, None),
    ("mp3_44100_64", "audio/mpeg", 44_100, None),
    ("mp3_44100_96", "audio/mpeg", 44_100, None),
    ("mp3_44100_128", "audio/mpeg", 44_100, None),
    ("mp3_44100_192", "audio/mpeg", 44_100, None),
    ("opus_48000_32", "audio/opus", 48_000, None),
    ("opus_48000_64", "audio/opus", 48_000, None),
    ("opus_48000_96", "audio/opus", 48_000, None),
    ("opus_48000_128", "audio/opus", 48_000, None),
    ("opus_48000_192", "audio/opus", 48_000, None),
    ("m4a_aac_44100_128", "audio/mp4", 44_100, None),
]
WAVS = [row for row in TABLE if row[0].startswith("wav")]


async def speak(
    path: str = SPEECH, *, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None
) -> tuple[httpx.Response, SineRunner]:
    """Make one request of a server of its own."""
    runner = SineRunner()
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner) as server, http_client(server) as client:
            answer = await client.post(path, json=body or {"text": TEXT}, headers=headers)
    return answer, runner


def test_the_format_table_is_complete() -> None:
    assert [row[0] for row in TABLE] == list(FORMATS)


@pytest.mark.parametrize(("name", "content_type", "rate_hz", "sample_bytes"), TABLE)
async def test_every_endpoint_gives_the_same_bytes(
    name: str, content_type: str, rate_hz: int, sample_bytes: int | None
) -> None:
    runner = SineRunner()
    query = f"?output_format={name}"
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner) as server, http_client(server) as client:
            whole = await client.post(SPEECH + query, json={"text": TEXT})
            stream = await client.post(f"{SPEECH}/stream{query}", json={"text": TEXT})
            lines = await client.post(
                TIMESTAMPS + query, json={"text": TEXT}, headers={"accept": "application/json"}
            )
    for answer in (whole, stream):
        assert answer.status_code == 200
        assert answer.headers["content-type"] == content_type
    assert int(whole.headers["content-length"]) == len(whole.content)
    assert "transfer-encoding" not in whole.headers
    assert stream.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in stream.headers
    header_bytes = 44 if name.startswith("wav") else 0
    assert whole.content[header_bytes:] == stream.content[header_bytes:]
    assert stream.content == sine_speech(runner.opened[:3], name)
    assert b"".join(read_line(line) for line in lines.content.splitlines()) == stream.content
    sound = stream.content[header_bytes:]
    true_samples = FRAMES * FRAME_SAMPLES * rate_hz / SAMPLE_RATE_HZ
    if sample_bytes is not None:
        assert abs(len(sound) / sample_bytes - true_samples) <= 1
    else:
        # LAME's delay is in front, and a codec's padding to whole frames of its own behind.
        assert true_samples <= decoded_samples(sound, rate_hz) <= true_samples + 4 * 1_152


def decoded_samples(stream: bytes, rate_hz: int) -> int:
    """Return how many samples FFmpeg decodes, all of them at this rate."""
    with av.open(io.BytesIO(stream), "r") as container:
        frames = list(container.decode(audio=0))
    assert {frame.sample_rate for frame in frames} == {rate_hz}
    return sum(frame.samples for frame in frames)


async def test_the_default_format_is_mp3_of_44100_hz_and_128_kbps() -> None:
    answer, runner = await speak()
    assert answer.headers["content-type"] == "audio/mpeg"
    assert answer.content == sine_speech(runner.opened, "mp3_44100_128")


@pytest.mark.parametrize(("name", "content_type", "rate_hz", "sample_bytes"), WAVS)
async def test_a_wav_header_has_lengths_only_where_they_are_known(
    name: str, content_type: str, rate_hz: int, sample_bytes: int
) -> None:
    whole, _ = await speak(f"{SPEECH}?output_format={name}")
    stream, _ = await speak(f"{SPEECH}/stream?output_format={name}")
    assert riff_lengths(whole.content) == (len(whole.content) - 8, len(whole.content) - 44)
    assert riff_lengths(stream.content) == (0xFFFF_FFFF, 0xFFFF_FFFF)
    for answer in (whole, stream):
        assert struct.unpack_from("<HHIIHH", answer.content, 20) == (
            *(1, 1, rate_hz, rate_hz * sample_bytes, sample_bytes, 8 * sample_bytes),
        )


def riff_lengths(wav: bytes) -> tuple[int, int]:
    assert (wav[:4], wav[8:16], wav[36:40]) == (b"RIFF", b"WAVEfmt ", b"data")
    return struct.unpack_from("<I", wav, 4)[0], struct.unpack_from("<I", wav, 40)[0]


async def test_sentences_are_spoken_in_order_behind_one_header() -> None:
    answer, runner = await speak(f"{SPEECH}/stream?output_format=wav_24000")
    assert [one.text for one in runner.opened] == SENTENCES
    assert answer.content.count(b"RIFF") == 1
    samples = b"".join(
        frame.pcm.tobytes() for one in runner.opened for frame in sine_frames(one)
    )  # fmt: skip
    assert answer.content[44:] == samples


@pytest.mark.parametrize("name", ["pcm_24000", "mp3_22050_32"])
async def test_speed_changes_the_duration(name: str) -> None:
    body = {"text": TEXT, "voice_settings": {"speed": 1.2}}
    answer, runner = await speak(f"{SPEECH}?output_format={name}", body=body)
    assert answer.content == sine_speech(runner.opened, name, speed=1.2)
    if name == "pcm_24000":
        assert len(answer.content) // 2 == round(FRAMES * FRAME_SAMPLES / 1.2)


async def test_a_speed_out_of_bounds_is_refused_by_name() -> None:
    answer, _ = await speak(body={"text": TEXT, "voice_settings": {"speed": 2.0}})
    assert answer.status_code == 422
    assert "voice_settings.speed must be a number from 0.7 to 1.2" in answer.text


@pytest.mark.parametrize("endpoint", ["/stream", "/stream/with-timestamps"])
async def test_audio_is_sent_while_the_next_frame_is_being_made(endpoint: str) -> None:
    gate = StepGate()
    runner = SineRunner(step_gate=gate)
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner) as server, http_client(server) as client:
            gate.release()
            try:
                async with client.stream(
                    "POST", f"{SPEECH}{endpoint}?output_format=pcm_24000", json={"text": TEXT}
                ) as answer:
                    body = answer.aiter_raw()
                    first = await anext(body)
                    steps_by_then = len(runner.steps)
                    gate.open()
                    rest = [chunk async for chunk in body]
            finally:
                gate.open()
    assert steps_by_then <= 2
    assert first
    assert rest


@pytest.mark.parametrize(
    ("accept", "key", "content_type"),
    [
        ("text/event-stream", "any", "text/event-stream"),
        ("application/x-ndjson", None, "application/x-ndjson"),
        ("application/json", None, "application/x-ndjson"),
        ("*/*", "any", "application/x-ndjson"),
        ("*/*", None, "text/event-stream"),
        ("application/json, text/event-stream;q=0.5", None, "application/x-ndjson"),
    ],
)
async def test_the_accept_header_selects_the_framing_of_timestamps(
    accept: str, key: str | None, content_type: str
) -> None:
    headers = {"accept": accept} | ({} if key is None else {"xi-api-key": key})
    answer, runner = await speak(f"{TIMESTAMPS}?output_format=pcm_16000", headers=headers)
    assert answer.headers["content-type"].partition(";")[0] == content_type
    assert answer.headers["transfer-encoding"] == "chunked"
    if content_type == "text/event-stream":
        *events, end = answer.content.split(b"\n\n")
        assert end == b""
        assert all(event.startswith(b"data: ") for event in events)
        lines = [event.removeprefix(b"data: ") for event in events]
    else:
        *lines, end = answer.content.split(b"\n")
        assert end == b"", "the last line, too, ends in a newline"
    assert len(lines) > 1
    assert b"".join(map(read_line, lines)) == sine_speech(runner.opened, "pcm_16000")


@pytest.mark.parametrize("name", ["pcm_24000", "wav_16000", "mp3_44100_128"])
async def test_with_timestamps_without_streaming_is_one_object(name: str) -> None:
    query = f"?output_format={name}"
    plain, _ = await speak(SPEECH + query)
    answer, _ = await speak(f"{SPEECH}/with-timestamps{query}")
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert read_line(answer.content) == plain.content


async def test_timestamps_cover_every_character_from_the_start_of_the_answer() -> None:
    streamed, _ = await speak(
        f"{TIMESTAMPS}?output_format=pcm_24000", headers={"accept": "application/x-ndjson"}
    )
    whole, _ = await speak(f"{SPEECH}/with-timestamps?output_format=pcm_24000")
    lines = [json.loads(line)["alignment"] for line in streamed.content.splitlines()]
    alignments = [line for line in lines if line is not None]
    joined = {
        name: [value for line in alignments for value in line[name]] for name in alignments[0]
    }
    for one in (joined, whole.json()["alignment"]):
        starts, ends = one["character_start_times_seconds"], one["character_end_times_seconds"]
        assert "".join(one["characters"]).split() == TEXT.split()
        assert starts == sorted(starts)
        assert [0.0, *ends[:-1]] == starts
        assert ends[-1] == pytest.approx(FRAMES * 0.08)
    assert whole.json()["normalized_alignment"] == whole.json()["alignment"]


def read_line(line: bytes) -> bytes:
    """Return the audio of one object, which must be whole."""
    parsed = json.loads(line)
    assert parsed.keys() == {"audio_base64", "alignment", "normalized_alignment"}
    return base64.b64decode(parsed["audio_base64"], validate=True)


async def test_settings_of_the_body_reach_the_engine() -> None:
    body = {
        "text": "One two three. Four five six.",
        "speaker_id": 7,
        "temperature": 0.35,
        "top_k": 12,
        "seed": 99,
        "max_audio_len_ms": 400,
    }
    _, runner = await speak(body=body)
    first, second = runner.opened
    assert [(one.speaker_id, one.max_frames) for one in runner.opened] == [(7, 5), (7, 5)]
    for one in runner.opened:
        assert (one.sampling.temperature, one.sampling.top_k) == (0.35, 12)
    assert first.sampling.seed == 99
    assert second.sampling.seed not in (None, 99), "sentences share no noise"


async def test_without_settings_the_defaults_of_model_and_server_apply() -> None:
    body = {"text": "so " * 80}
    _, runner = await speak(f"{SPEECH}/stream", body=body)
    one, *others = runner.opened
    assert others, "what 10 s cannot hold comes in parts"
    assert one.speaker_id == VoiceCatalog.load(None).get("default").speaker_id
    assert (one.sampling.temperature, one.sampling.top_k) == (None, None)
    assert one.max_frames == 125, "10 s by default"
    _, longer = await speak(body={**body, "max_audio_len_ms": 12_000})
    assert longer.opened[0].max_frames == 150


@pytest.mark.parametrize(("voice", "speaker_id"), [("speaker_0", 0), ("speaker_3", 3), ("17", 17)])
async def test_the_voice_in_the_path_selects_the_speaker(voice: str, speaker_id: int) -> None:
    _, runner = await speak(f"/v1/text-to-speech/{voice}")
    assert {one.speaker_id for one in runner.opened} == {speaker_id}


async def test_unused_and_unknown_fields_have_no_effect() -> None:
    plain, _ = await speak(body={"text": TEXT})
    parity = {
        "text": TEXT,
        "model_id": "eleven_multilingual_v2",
        "language_code": "en",
        "voice_settings": {"stability": 0.5, "similarity_boost": 0.75, "speed": 1.0},
        "pronunciation_dictionary_locators": [],
        "previous_text": "Before.",
        "next_text": "After.",
        "previous_request_ids": ["a"],
        "apply_text_normalization": "auto",
        "use_pvc_as_ivc": False,
        "of_nobody": {"deep": [1, None]},
    }
    nulls = {**dict.fromkeys([*parity, "speaker_id", "temperature", "top_k", "seed"]), "text": TEXT}
    for body in (parity, nulls, {**nulls, "max_audio_len_ms": None}):
        answer, _ = await speak(f"{SPEECH}?enable_logging=true&optimize_streaming_latency=3",
                                body=body)  # fmt: skip
        assert answer.status_code == 200
        assert answer.content == plain.content


async def test_every_answer_has_a_request_id_of_its_own() -> None:
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner) as server, http_client(server) as client:
            answers = [
                await client.post(f"{SPEECH}{endpoint}", json={"text": "Hi."})
                for endpoint in ("", "/stream", "/stream/with-timestamps", "", "/nowhere")
            ]
    ids = [answer.headers["request-id"] for answer in answers]
    assert all(ids)
    assert len(set(ids)) == len(ids)


async def test_one_connection_carries_many_requests() -> None:
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner) as server:
            idle = server.tasks()
            async with http_client(server) as client:
                for endpoint in ("", "/stream", "/stream/with-timestamps") * 3:
                    answer = await client.post(f"{SPEECH}{endpoint}", json={"text": "Hi."})
                    assert answer.status_code == 200
            await until(lambda: server.tasks() == idle)
            assert server.metric("csm_sessions") == 0
            assert server.metric("csm_cancels_total", reason="hang_up") == 0


@pytest.mark.parametrize("endpoint", ["", "/stream", "/stream/with-timestamps"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_connection_close_ends_the_connection_after_the_answer(
    endpoint: str, version: str
) -> None:
    """RFC 9112 §6.3, §9.6: where a stream has no length, its end is the connection's end."""
    body = json.dumps({"text": TEXT}).encode()
    head = f"POST {SPEECH}{endpoint} HTTP/{version}\r\nhost: test\r\nconnection: close\r\n"
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner) as server:
            idle = server.tasks()
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            async with stream:
                await stream.send_all(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
                with trio.move_on_after(2) as patience:
                    answer = b"".join([chunk async for chunk in stream])
                assert not patience.cancelled_caught, "the connection stays open"
                assert answer.startswith(b"HTTP/1.1 200 ")
                await until(lambda: server.tasks() == idle)


async def test_an_idle_connection_is_closed() -> None:
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner, limits=ConnectionLimits(keep_alive_s=0.05)) as server:
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            async with stream:
                await http_post(stream, f"{SPEECH}/stream", {"text": "Hi."})
                with trio.move_on_after(2) as patience:
                    answer = b"".join([chunk async for chunk in stream])
                assert not patience.cancelled_caught, "the connection stays open"
                assert answer.startswith(b"HTTP/1.1 200 ")
