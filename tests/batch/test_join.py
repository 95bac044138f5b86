"""One file of many: pauses, times of subtitles, chapters, every format, the same bytes again."""

from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from csm_trio.audio.decode import decode, duration_s
from csm_trio.audio.encoders import make_encoder
from csm_trio.audio.formats import FORMATS, AudioFormat
from csm_trio.audio.wav import read_wav
from csm_trio.batch.item import BadInput
from csm_trio.batch.join import Part, join

WAV = AudioFormat.parse("wav_24000")


def tone(seconds: float, level: int = 1_000) -> NDArray[np.int16]:
    at = np.arange(round(seconds * 24_000))
    return (level * np.sin(at / 8)).astype(np.int16)


def encoded(pcm: NDArray[np.int16], audio_format: AudioFormat) -> bytes:
    encoder = make_encoder(audio_format)
    return encoder.encode(pcm) + encoder.finish()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_decoded(name: str) -> None:
    audio_format = AudioFormat.parse(name)
    audio = encoded(tone(1.0), audio_format)
    pcm, rate_hz = decode(audio, audio_format)
    # Codecs add up to two of their frames.
    assert 1.0 - 0.01 <= len(pcm) / rate_hz < 1.12
    assert duration_s(audio, audio_format) == pytest.approx(len(pcm) / rate_hz)
    assert 500 < np.abs(pcm).max() < 1_500


def test_what_is_no_audio_is_a_value_error() -> None:
    for name in ("mp3_44100_128", "opus_48000_64", "wav_24000"):
        with pytest.raises(ValueError, match=r"."):
            decode(b"not audio at all" * 10, AudioFormat.parse(name))


FILES = {"a": encoded(tone(1.0), WAV), "b": encoded(tone(0.5, 2_000), WAV)}


def parts(second_start_s: float) -> list[Part]:
    return [
        Part("a", WAV, 0.0, 1.0, "One"),
        Part("b", WAV, second_start_s, 0.5, "Two"),
    ]


def joined_wav(path: Path, second_start_s: float) -> NDArray[np.int16]:
    out = path / "whole.wav"
    length_s = join(parts(second_start_s), FILES.__getitem__, out)
    pcm, rate_hz = read_wav(out.read_bytes())
    assert rate_hz == 24_000
    assert length_s == len(pcm) / 24_000
    return pcm


def test_a_pause_is_silence_between_two_parts(tmp_path: Path) -> None:
    pcm = joined_wav(tmp_path, 3.25)
    silence = np.zeros(round(2.25 * 24_000), dtype=np.int16)
    assert np.array_equal(pcm, np.concatenate([tone(1.0), silence, tone(0.5, 2_000)]))


def test_a_part_that_is_too_long_sounds_under_the_next(tmp_path: Path) -> None:
    pcm = joined_wav(tmp_path, 0.75)
    both = tone(1.0)[18_000:] + tone(0.5, 2_000)[:6_000]
    expected = np.concatenate([tone(1.0)[:18_000], both, tone(0.5, 2_000)[6_000:]])
    assert np.array_equal(pcm, expected)


@pytest.mark.parametrize("suffix", ["mp3", "m4b", "m4a"])
def test_chapters_stand_at_the_parts_that_begin_them(suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"whole.{suffix}"
    three = [*parts(1.5), Part("a", WAV, 2.0, 1.0)]
    join(three, FILES.__getitem__, out)
    with av.open(str(out)) as container:
        found = [
            (one["start"], one["end"], one["metadata"]["title"]) for one in container.chapters()
        ]
        assert container.duration is not None
        assert container.duration / 1e6 == pytest.approx(3.0, abs=0.1)
    assert found == [(0, 1_500, "One"), (1_500, 3_000, "Two")]


@pytest.mark.parametrize("suffix", ["wav", "mp3", "m4b"])
def test_the_same_parts_give_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    first, second = tmp_path / f"1.{suffix}", tmp_path / f"2.{suffix}"
    for path in (first, second):
        join(parts(1.0), FILES.__getitem__, path)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(tmp_path.iterdir()) == [first, second]


def test_a_join_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Cannot write"):
        join(parts(1.0), lambda file: b"no audio", tmp_path / "whole.mp3")
    assert not list(tmp_path.iterdir())
    with pytest.raises(BadInput, match="Cannot write"):
        join(parts(1.0), FILES.__getitem__, tmp_path / "missing" / "whole.wav")
