"""Names in, facts out: every format that callers may ask for."""

import pytest

from csm_trio.audio.formats import FORMATS, AudioFormat
from csm_trio.errors import UnknownFormat

FACTS = [
    ("pcm_16000", "pcm", 16_000, None, "audio/pcm"),
    ("pcm_22050", "pcm", 22_050, None, "audio/pcm"),
    ("pcm_24000", "pcm", 24_000, None, "audio/pcm"),
    ("pcm_44100", "pcm", 44_100, None, "audio/pcm"),
    ("ulaw_8000", "ulaw", 8_000, None, "audio/basic"),
    ("wav_16000", "wav", 16_000, None, "audio/wav"),
    ("wav_22050", "wav", 22_050, None, "audio/wav"),
    ("wav_24000", "wav", 24_000, None, "audio/wav"),
    ("wav_44100", "wav", 44_100, None, "audio/wav"),
    ("mp3_22050_32", "mp3", 22_050, 32, "audio/mpeg"),
    ("mp3_44100_32", "mp3", 44_100, 32, "audio/mpeg"),
    ("mp3_44100_64", "mp3", 44_100, 64, "audio/mpeg"),
    ("mp3_44100_96", "mp3", 44_100, 96, "audio/mpeg"),
    ("mp3_44100_128", "mp3", 44_100, 128, "audio/mpeg"),
    ("mp3_44100_192", "mp3", 44_100, 192, "audio/mpeg"),
]


def test_formats_are_exactly_those_promised() -> None:
    assert tuple(name for name, *_ in FACTS) == FORMATS


@pytest.mark.parametrize(
    ("name", "codec", "sample_rate_hz", "bitrate_kbps", "content_type"), FACTS, ids=FORMATS
)
def test_each_name_means_its_parts(
    name: str, codec: str, sample_rate_hz: int, bitrate_kbps: int | None, content_type: str
) -> None:
    parsed = AudioFormat.parse(name)
    assert parsed.name == name
    assert parsed.codec == codec
    assert parsed.sample_rate_hz == sample_rate_hz
    assert parsed.bitrate_kbps == bitrate_kbps
    assert parsed.content_type == content_type


@pytest.mark.parametrize(
    "name", ["", "pcm", "PCM_24000", "pcm_24000 ", "pcm_8000", "mp3_44100", "mp3_44100_320", "flac"]
)
def test_any_other_name_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(UnknownFormat) as caught:
        AudioFormat.parse(name)
    assert caught.value.param == "output_format"
    assert f"'{name}'" in caught.value.message
    assert all(known in caught.value.message for known in FORMATS)


@pytest.mark.parametrize(
    ("name", "n_bytes", "duration_s"),
    [
        ("pcm_24000", 48_000, 1.0),
        ("pcm_44100", 44_100, 0.5),
        ("ulaw_8000", 8_000, 1.0),
        ("wav_16000", 44 + 16_000, 0.5),
        ("wav_16000", 44, 0.0),
        ("wav_16000", 10, 0.0),
        ("mp3_44100_128", 16_000, 1.0),
        ("mp3_22050_32", 2_000, 0.5),
        ("pcm_16000", 0, 0.0),
    ],
)
def test_duration_follows_from_the_bytes(name: str, n_bytes: int, duration_s: float) -> None:
    assert AudioFormat.parse(name).duration_s(n_bytes) == pytest.approx(duration_s)
