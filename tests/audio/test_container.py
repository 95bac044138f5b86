"""Audio files of unknown origin: many containers, hostile ones, and no second file."""

import io
import struct
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from csm_trio.audio.container import UnreadableAudio, decode_file
from csm_trio.audio.reference_clip import UnusableClip, prepare_clip
from support.speech_like import (
    RATE_HZ,
    file_of,
    float_wav,
    noise,
    silence,
    speech,
    transcript,
    wav_of,
)

SPEECH = speech(2.5)
TEXT = transcript(2.5)

KINDS = [
    ("wav", "pcm_u8", 8_000, "mono"),
    ("wav", "pcm_s16le", 192_000, "stereo"),
    ("wav", "pcm_s24le", 48_000, "stereo"),
    ("wav", "pcm_s32le", 44_100, "mono"),
    ("wav", "pcm_f32le", 44_100, "mono"),
    ("wav", "pcm_f64le", 16_000, "5.1"),
    ("wav", "pcm_mulaw", 8_000, "mono"),
    ("wav", "adpcm_ms", 44_100, "mono"),
    ("w64", "pcm_s16le", 44_100, "mono"),
    ("aiff", "pcm_s16be", 44_100, "stereo"),
    ("caf", "pcm_s16be", 44_100, "mono"),
    ("au", "pcm_s16be", 44_100, "mono"),
    ("flac", "flac", 44_100, "stereo"),
    ("mp3", "libmp3lame", 44_100, "stereo"),
    ("ogg", "libopus", 48_000, "mono"),
    ("webm", "libopus", 48_000, "stereo"),
    ("ipod", "aac", 44_100, "stereo"),
    ("ipod", "alac", 44_100, "mono"),
    ("mov", "pcm_s16le", 44_100, "mono"),
    ("adts", "aac", 44_100, "mono"),
    ("wv", "wavpack", 44_100, "mono"),
]


def decoded(data: bytes, max_s: float = 60.0) -> NDArray[np.float32]:
    return decode_file(data, sample_rate_hz=RATE_HZ, max_s=max_s).channels


def refusal(data: bytes) -> str:
    with pytest.raises(UnreadableAudio) as refused:
        decoded(data)
    return str(refused.value)


def levels(sound: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    blocks = sound[: 50 * 1_200].astype(np.float64).reshape(50, 1_200)
    return np.asarray(np.sqrt(np.mean(blocks**2, axis=1)))


@pytest.mark.parametrize(("muxer", "codec", "rate_hz", "layout"), KINDS)
def test_a_file_of_any_kind_is_decoded(muxer: str, codec: str, rate_hz: int, layout: str) -> None:
    data = file_of(muxer, codec, SPEECH, rate_hz=rate_hz, layout=layout)
    file = decode_file(data, sample_rate_hz=RATE_HZ, max_s=60.0)
    assert file.source_hz == rate_hz
    assert not file.damaged
    loudest = file.channels[:, np.abs(file.channels).max(axis=0).argmax()]
    assert len(SPEECH) - 10 <= len(loudest) <= len(SPEECH) + 3_000
    # The level of every 50 ms, since coders shift the phase, and low rates lack the treble.
    assert np.corrcoef(levels(loudest), levels(SPEECH))[0, 1] > 0.75


NO_AUDIO = {
    "empty": b"",
    "text": b"Some words, no audio.\n" * 100,
    "html": b"<!doctype html><html><body>words</body></html>" * 20,
    "zip": b"PK\x03\x04" + bytes(500),
    "png": b"\x89PNG\r\n\x1a\n" + bytes(500),
    "zeros": bytes(5_000),
    "elf": b"\x7fELF" + bytes(5_000),
    "noise": np.random.default_rng(0).bytes(50_000),
    "midi": b"MThd\x00\x00\x00\x06\x00\x00\x00\x01\x00\x60MTrk\x00\x00\x00\x04\x00\xff\x2f\x00",
    "riff": b"RIFF\x24\x00\x00\x00WAVE",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"></svg>',
    "ogg page": b"OggS" + bytes(300),
    "lavfi": b"sine=frequency=440",
    "ffmetadata": b";FFMETADATA1\ntitle=words\n",
    "sdp": b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    b"m=audio 5004 RTP/AVP 0\r\n",
}


@pytest.mark.parametrize("data", NO_AUDIO.values(), ids=NO_AUDIO)
def test_what_is_no_audio_is_refused(data: bytes) -> None:
    refusal(data)


def test_video_is_refused_unless_it_has_audio() -> None:
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        for _ in range(25):
            picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    assert "no audio stream" in refusal(sink.getvalue())


@pytest.fixture
def visits() -> Iterator[tuple[str, list[str]]]:
    """Yield the address of an HTTP server, and the paths that were asked of it."""
    paths: list[str] = []

    class Visit(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Visit) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/clip.wav", paths
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{url}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {url}\n",
        "[playlist]\nFile1={url}\nNumberOfEntries=1\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
        "<Period><AdaptationSet><Representation><BaseURL>{url}</BaseURL></Representation>"
        "</AdaptationSet></Period></MPD>",
        "rtsp {url}\n",
    ],
    ids=["hls", "concat", "pls", "dash", "rtsp"],
)
def test_no_playlist_opens_another_file_or_address(
    playlist: str, tmp_path: Path, visits: tuple[str, list[str]]
) -> None:
    url, paths = visits
    local = tmp_path / "clip.wav"
    local.write_bytes(wav_of(SPEECH))
    for target in (url, str(local), local.as_uri()):
        refusal(playlist.format(url=target).encode())
    assert not paths


def test_a_file_that_claims_hours_is_decoded_to_its_true_end() -> None:
    data = bytearray(wav_of(SPEECH))
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    assert len(decoded(bytes(data))) == len(SPEECH)


def test_a_file_that_expands_to_hours_is_not_decoded_to_its_end() -> None:
    data = file_of("flac", "flac", silence(150.0), rate_hz=8_000)
    assert len(data) < 60_000
    assert "longer than 60 seconds" in refusal(data)


def test_a_compressed_quicktime_header_is_refused() -> None:
    def atom(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(body), kind) + body

    bomb = struct.pack(">I", 1 << 20) + zlib.compress(bytes(1 << 20))
    header = atom(b"cmov", atom(b"dcom", b"zlib") + atom(b"cmvd", bomb))
    data = atom(b"ftyp", b"qt  \0\0\0\0qt  ") + atom(b"moov", header)
    assert "compressed header" in refusal(data)


@pytest.mark.parametrize("n_channels", [9, 64])
def test_too_many_channels_are_refused(n_channels: int) -> None:
    samples = np.repeat(SPEECH[:, None].astype(np.float32), n_channels, axis=1)
    assert "channels" in refusal(float_wav(samples))


def test_of_several_streams_one_is_decoded() -> None:
    sink = io.BytesIO()
    with av.open(sink, "w", format="matroska") as container:
        streams = [container.add_stream("pcm_s16le", rate=RATE_HZ, layout="mono") for _ in range(9)]
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(
                np.rint(SPEECH * 9_000).astype(np.int16)[None], format="s16", layout="mono"
            )
            frame.sample_rate = RATE_HZ
            container.mux(stream.encode(frame))
    assert len(decoded(sink.getvalue())) == len(SPEECH)


def test_tags_in_another_encoding_and_a_cover_do_no_harm() -> None:
    tag = b"TIT2" + struct.pack(">IH", 6, 0) + b"\x00Gr\xf6\xdfe"
    picture = b"\x00image/png\x00\x03\x00\x89PNG\r\n\x1a\n" + bytes(100)
    tag += b"APIC" + struct.pack(">IH", len(picture), 0) + picture
    header = b"ID3\x03\x00\x00" + bytes([0, 0, len(tag) >> 7, len(tag) & 127])
    data = file_of("mp3", "libmp3lame", SPEECH, rate_hz=44_100)
    assert len(decoded(header + tag + data)) >= len(SPEECH)


MUTATED = [
    ("wav", "pcm_s16le", 24_000),
    ("flac", "flac", 24_000),
    ("mp3", "libmp3lame", 24_000),
    ("ogg", "libopus", 48_000),
    ("ipod", "aac", 24_000),
    ("webm", "libopus", 48_000),
    ("aiff", "pcm_s16be", 24_000),
]
SAMPLES = [file_of(muxer, codec, SPEECH, rate_hz=rate_hz) for muxer, codec, rate_hz in MUTATED]


@st.composite
def mutated_files(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(SAMPLES)))
    for _ in range(draw(st.integers(0, 8))):
        # Most of what can go wrong is in the first bytes.
        at = draw(st.one_of(st.integers(0, 200), st.integers(0, len(data) - 1)))
        patch = draw(st.binary(min_size=1, max_size=8))
        data[at : at + len(patch)] = patch
    return bytes(data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))])


def check_prepared_or_refused(data: bytes) -> None:
    try:
        clip = prepare_clip(data, TEXT)
    except UnusableClip:
        return
    assert 2.0 <= clip.duration_s <= 30.0


@settings(max_examples=60, deadline=None)
@given(mutated_files())
def test_a_damaged_file_is_prepared_or_refused(data: bytes) -> None:
    check_prepared_or_refused(data)


@pytest.mark.soak
@settings(max_examples=20_000, deadline=None)
@given(mutated_files())
def test_thousands_of_damaged_files_are_prepared_or_refused(data: bytes) -> None:
    check_prepared_or_refused(data)


def test_a_damaged_file_keeps_what_can_be_decoded_and_says_so() -> None:
    data = bytearray(file_of("mp3", "libmp3lame", speech(6.0), rate_hz=44_100))
    middle = len(data) // 2
    data[middle : middle + 600] = noise(0.1, 1.0).astype(np.int8).tobytes()[:600]
    clip = prepare_clip(bytes(data), transcript(6.0))
    assert 5.0 <= clip.duration_s <= 6.5
    assert any("damaged" in warning for warning in clip.warnings)
