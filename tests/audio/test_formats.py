"""The properties of every audio format by its name."""

import pytest

from csm_trio.audio.formats import FORMATS, OPENAI_FORMATS, AudioFormat, Codec
from csm_trio.errors import UnknownFormat

# The list that ElevenLabs' server gives, name by name.
FACTS = [
    ("pcm_8000", "pcm", 8_000, None, "audio/pcm"),
    ("pcm_16000", "pcm", 16_000, None, "audio/pcm"),
    ("pcm_22050", "pcm", 22_050, None, "audio/pcm"),
    ("pcm_24000", "pcm", 24_000, None, "audio/pcm"),
    ("pcm_32000", "pcm", 32_000, None, "audio/pcm"),
    ("pcm_44100", "pcm", 44_100, None, "audio/pcm"),
    ("pcm_48000", "pcm", 48_000, None, "audio/pcm"),
    ("ulaw_8000", "ulaw", 8_000, None, "audio/basic"),
    ("alaw_8000", "alaw", 8_000, None, "audio/PCMA"),
    ("wav_8000", "wav", 8_000, None, "audio/wav"),
    ("wav_16000", "wav", 16_000, None, "audio/wav"),
    ("wav_22050", "wav", 22_050, None, "audio/wav"),
    ("wav_24000", "wav", 24_000, None, "audio/wav"),
    ("wav_32000", "wav", 32_000, None, "audio/wav"),
    ("wav_44100", "wav", 44_100, None, "audio/wav"),
    ("wav_48000", "wav", 48_000, None, "audio/wav"),
    ("mp3_22050_32", "mp3", 22_050, 32, "audio/mpeg"),
    ("mp3_24000_48", "mp3", 24_000, 48, "audio/mpeg"),
    ("mp3_44100_32", "mp3", 44_100, 32, "audio/mpeg"),
    ("mp3_44100_64", "mp3", 44_100, 64, "audio/mpeg"),
    ("mp3_44100_96", "mp3", 44_100, 96, "audio/mpeg"),
    ("mp3_44100_128", "mp3", 44_100, 128, "audio/mpeg"),
    ("mp3_44100_192", "mp3", 44_100, 192, "audio/mpeg"),
    ("opus_48000_32", "opus", 48_000, 32, "audio/opus"),
    ("opus_48000_64", "opus", 48_000, 64, "audio/opus"),
    ("opus_48000_96", "opus", 48_000, 96, "audio/opus"),
    ("opus_48000_128", "opus", 48_000, 128, "audio/opus"),
    ("opus_48000_192", "opus", 48_000, 192, "audio/opus"),
    ("m4a_aac_44100_128", "m4a", 44_100, 128, "audio/mp4"),
]
OPENAI_FACTS = [
    ("mp3", "mp3", 24_000, 128, "audio/mpeg"),
    ("opus", "opus", 48_000, 64, "audio/opus"),
    ("aac", "aac", 24_000, 96, "audio/aac"),
    ("flac", "flac", 24_000, None, "audio/flac"),
    ("wav", "wav", 24_000, None, "audio/wav"),
    ("pcm", "pcm", 24_000, None, "audio/pcm"),
]


def test_formats_are_exactly_the_documented_ones() -> None:
    assert tuple(name for name, *_ in FACTS) == FORMATS
    assert tuple(name for name, *_ in OPENAI_FACTS) == OPENAI_FORMATS


@pytest.mark.parametrize(
    ("name", "codec", "sample_rate_hz", "bitrate_kbps", "content_type"), FACTS, ids=FORMATS
)
def test_each_name_states_its_codec_and_rates(
    name: str, codec: Codec, sample_rate_hz: int, bitrate_kbps: int | None, content_type: str
) -> None:
    expected = AudioFormat(name, codec, sample_rate_hz, bitrate_kbps, content_type)
    assert AudioFormat.parse(name) == expected


@pytest.mark.parametrize(
    ("name", "codec", "sample_rate_hz", "bitrate_kbps", "content_type"),
    OPENAI_FACTS,
    ids=OPENAI_FORMATS,
)
def test_openais_names_are_codecs(
    name: str, codec: Codec, sample_rate_hz: int, bitrate_kbps: int | None, content_type: str
) -> None:
    expected = AudioFormat(name, codec, sample_rate_hz, bitrate_kbps, content_type)
    assert AudioFormat.parse_openai(name) == expected


def test_the_documented_default_of_the_vendors_sockets_is_a_name_too() -> None:
    assert AudioFormat.parse("mp3_44100") == AudioFormat.parse("mp3_44100_128")


@pytest.mark.parametrize("name", ["", "MP3", "pcm_24000", "mp3_44100_128", "ogg"])
def test_other_response_formats_are_rejected_with_openais_field(name: str) -> None:
    with pytest.raises(UnknownFormat) as caught:
        AudioFormat.parse_openai(name)
    assert caught.value.param == "response_format"
    assert f"response_format '{name}'" in caught.value.message
    assert all(known in caught.value.message for known in OPENAI_FORMATS)


@pytest.mark.parametrize(
    "name",
    ["", "pcm", "PCM_24000", "pcm_24000 ", "pcm_11025", "mp3_22050", "mp3_44100_320", "flac"],
)
def test_the_error_for_an_unknown_format_contains_its_name(name: str) -> None:
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


@pytest.mark.parametrize("name", ["opus_48000_64", "m4a_aac_44100_128"])
def test_the_duration_of_a_variable_rate_is_unknown(name: str) -> None:
    audio_format = AudioFormat.parse(name)
    assert not audio_format.has_constant_rate
    assert audio_format.duration_s(1_000) is None
