"""Sound that has the levels of speech: vowels in syllables, sentences, pauses."""

import io

import av
import numpy as np
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from csm_trio.audio.wav import wav_header

RATE_HZ = 24_000
SYLLABLES_PER_S = 4
TRANSCRIPT_WORDS = "Some words are spoken in this clip and then there are more of them"

Sound = NDArray[np.float64]


def silence(seconds: float) -> Sound:
    return np.zeros(round(seconds * RATE_HZ))


def speech(seconds: float, *, pitch_hz: float = 120.0, peak: float = 0.4) -> Sound:
    """Return a gliding vowel in syllables, with a tenth of a second of silence in each second."""
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    phase = 2 * np.pi * (pitch_hz * time_s + 10 * np.sin(time_s))
    vowel = np.sum([np.sin(k * phase) / k for k in range(1, 12)], axis=0)
    syllables = np.abs(np.sin(np.pi * SYLLABLES_PER_S * time_s)) + 0.03
    between_words = np.abs(time_s % 1 - 0.625) < 0.055
    return np.asarray(peak * vowel * np.where(between_words, 0, syllables) / 1.9)


def transcript(seconds: float, *, stop: str = ".") -> str:
    """Return a sentence that takes an ordinary voice about so long: 15 characters a second."""
    words = TRANSCRIPT_WORDS.split()
    text = "Now"
    for index in range(10_000):
        if len(text) + 1 >= 15 * seconds:
            break
        text += " " + words[index % len(words)].lower()
    return text + stop


def noise(seconds: float, level: float, seed: int = 0) -> Sound:
    return np.random.default_rng(seed).normal(0, level, round(seconds * RATE_HZ))


def pcm_of(sound: Sound) -> NDArray[np.int16]:
    pcm: NDArray[np.int16] = np.clip(np.rint(sound * 32_768), -32_768, 32_767).astype(np.int16)
    return pcm


def wav_of(sound: Sound, *, rate_hz: int = RATE_HZ) -> bytes:
    data = pcm_of(sound).astype("<i2").tobytes()
    return wav_header(rate_hz, data_bytes=len(data)) + data


def file_of(muxer: str, codec: str, sound: Sound, *, rate_hz: int, layout: str = "mono") -> bytes:
    """Return the sound encoded by FFmpeg, in one container."""
    sink = io.BytesIO()
    with av.open(sink, "w", format=muxer) as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        assert isinstance(stream, AudioStream)
        frame = av.AudioFrame.from_ndarray(
            sound[np.newaxis].astype(np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = RATE_HZ
        resampler = av.AudioResampler(
            format=stream.codec_context.format, layout=layout, rate=rate_hz
        )
        for resampled in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(resampled))
        container.mux(stream.encode(None))
    return sink.getvalue()


def float_wav(channels: NDArray[np.float32], *, rate_hz: int = RATE_HZ) -> bytes:
    """Return samples [n, channels] as a WAV file of 32-bit floating-point samples."""
    n_channels = channels.shape[1]
    data = channels.astype("<f4").tobytes()
    header = bytearray(wav_header(rate_hz, data_bytes=len(data)))
    header[20:24] = np.array([3, n_channels], dtype="<u2").tobytes()
    header[28:32] = np.array([rate_hz * 4 * n_channels], dtype="<u4").tobytes()
    header[32:36] = np.array([4 * n_channels, 32], dtype="<u2").tobytes()
    return bytes(header) + data
