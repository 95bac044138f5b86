"""The first audible sample: where the sound begins, however it is cut, coded or late."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from csm_trio.audio.formats import FORMATS, AudioFormat
from csm_trio.audio.g711 import encode_alaw, encode_ulaw
from csm_trio.audio.wav import wav_header
from csm_trio.bench.load.audible import DECODABLE, AudibleStart

PCM = AudioFormat.parse("pcm_24000")


def tone(duration_s: float, *, dbfs: float, rate_hz: int = 24_000) -> NDArray[np.int16]:
    """Return 1 kHz whose RMS is at `dbfs`."""
    at = np.arange(round(duration_s * rate_hz))
    peak = 32_768 * math.sqrt(2) * 10 ** (dbfs / 20)
    samples: NDArray[np.float64] = peak * np.sin(2 * math.pi * 1_000 / rate_hz * at)
    return np.rint(samples).astype(np.int16)


def silence(duration_s: float, *, rate_hz: int = 24_000, level: int = 0) -> NDArray[np.int16]:
    return np.full(round(duration_s * rate_hz), level, np.int16)


def heard(chunks: list[bytes], audio_format: AudioFormat = PCM) -> float | None:
    """Return the leading silence of chunks that come together."""
    audible = AudibleStart(audio_format)
    for chunk in chunks:
        audible.feed(chunk, 0.0)
    return audible.leading_silence_s


def test_loud_audio_is_audible_from_its_first_sample() -> None:
    assert heard([tone(0.08, dbfs=-20).tobytes()]) == pytest.approx(0, abs=0.001)


# level in dBFS, whether it is heard
LEVELS = [(-44.0, True), (-46.0, False), (-120.0, False)]


@pytest.mark.parametrize(("dbfs", "audible"), LEVELS)
def test_the_threshold_is_a_level_of_minus_45_dbfs(dbfs: float, audible: bool) -> None:
    assert (heard([tone(1, dbfs=dbfs).tobytes()]) is not None) == audible


def test_a_constant_is_silence_and_so_is_a_click() -> None:
    assert heard([silence(1, level=5_000).tobytes()]) is None
    clicked = silence(1)
    clicked[12_000] = 1_000
    assert heard([clicked.tobytes()]) is None


def test_thirty_milliseconds_must_have_come() -> None:
    assert heard([tone(0.029, dbfs=-20).tobytes()]) is None
    assert heard([tone(0.029, dbfs=-20).tobytes(), tone(0.001, dbfs=-20).tobytes()]) is not None


SPEECH = np.concatenate([silence(0.5), tone(0.5, dbfs=-20)])


@given(st.lists(st.integers(1, 96_000), max_size=20))
def test_where_chunks_are_cut_does_not_matter(cuts: list[int]) -> None:
    data = SPEECH.tobytes()
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    chunks = [data[start:end] for start, end in pairwise(edges)]
    assert heard(chunks) == pytest.approx(0.5, abs=0.001)


@pytest.mark.parametrize("name", ["pcm_8000", "pcm_22050", "ulaw_8000", "alaw_8000", "wav_16000"])
def test_every_codec_without_a_delay_is_decoded(name: str) -> None:
    audio_format = AudioFormat.parse(name)
    rate_hz = audio_format.sample_rate_hz
    pcm = np.concatenate([silence(0.3, rate_hz=rate_hz), tone(0.3, dbfs=-20, rate_hz=rate_hz)])
    data = {"ulaw": encode_ulaw, "alaw": encode_alaw}.get(
        audio_format.codec, lambda samples: samples.tobytes()
    )(pcm)
    if audio_format.codec == "wav":
        data = wav_header(rate_hz, data_bytes=None) + data
    assert heard([data[:30], data[30:]], audio_format) == pytest.approx(0.3, abs=0.001)


def test_other_codecs_are_refused() -> None:
    refused = [name for name in FORMATS if AudioFormat.parse(name).codec not in DECODABLE]
    assert "mp3_44100_128" in refused
    for name in refused:
        with pytest.raises(ValueError, match=name):
            AudibleStart(AudioFormat.parse(name))


def test_it_is_heard_when_the_player_gets_there() -> None:
    audible = AudibleStart(PCM)
    audible.feed(silence(0.5).tobytes(), 10.0)
    audible.feed(silence(0.25).tobytes(), 10.5)
    assert audible.at_s is None
    # The buffer ran empty: the third chunk plays two seconds late.
    audible.feed(tone(0.5, dbfs=-20).tobytes(), 12.75)
    assert audible.leading_silence_s == pytest.approx(0.75, abs=0.001)
    assert audible.at_s == pytest.approx(12.75, abs=0.001)
    audible.feed(tone(0.5, dbfs=-20).tobytes(), 20.0)
    assert audible.at_s == pytest.approx(12.75, abs=0.001)


def test_silence_before_the_speech_of_a_late_chunk_counts_as_time() -> None:
    audible = AudibleStart(PCM)
    audible.feed(silence(0.5).tobytes(), 0.0)
    audible.feed(np.concatenate([silence(0.2), tone(0.5, dbfs=-20)]).tobytes(), 3.0)
    assert audible.at_s == pytest.approx(3.2, abs=0.001)
