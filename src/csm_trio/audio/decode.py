"""Encoded audio back to samples: what joining, loudness and durations need.

The module knows every format of the API.
"""

import av
import numpy as np
from numpy.typing import NDArray

from csm_trio.audio.container import open_container
from csm_trio.audio.formats import AudioFormat
from csm_trio.audio.g711 import decode_alaw, decode_ulaw
from csm_trio.audio.wav import read_wav

_SAMPLE_CODECS = ("pcm", "wav", "ulaw", "alaw")


def decode(audio: bytes, audio_format: AudioFormat) -> tuple[NDArray[np.int16], int]:
    """Return mono samples [n] and their rate in Hz; raises `ValueError` where it cannot."""
    rate_hz = audio_format.sample_rate_hz
    match audio_format.codec:
        case "wav":
            return read_wav(audio)
        case "pcm":
            whole_bytes = len(audio) // 2 * 2
            return np.frombuffer(audio[:whole_bytes], dtype="<i2").astype(np.int16), rate_hz
        case "ulaw":
            return decode_ulaw(audio), rate_hz
        case "alaw":
            return decode_alaw(audio), rate_hz
        case _:
            return _decode_container(audio)


def duration_s(audio: bytes, audio_format: AudioFormat) -> float:
    """Return how long the audio plays; raises `ValueError` where it cannot be decoded."""
    if audio_format.codec in _SAMPLE_CODECS and audio_format.codec != "wav":
        return audio_format.duration_s(len(audio)) or 0.0
    pcm, rate_hz = decode(audio, audio_format)
    return len(pcm) / rate_hz


def _decode_container(audio: bytes) -> tuple[NDArray[np.int16], int]:
    chunks = [np.zeros(0, dtype=np.int16)]
    try:
        with open_container(audio) as container:
            rate_hz = container.streams.audio[0].rate
            resampler = av.AudioResampler(format="s16", layout="mono", rate=rate_hz)
            for frame in container.decode(audio=0):
                chunks += [out.to_ndarray()[0] for out in resampler.resample(frame)]
            chunks += [out.to_ndarray()[0] for out in resampler.resample(None)]
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"the audio cannot be decoded: {error}") from None
    return np.concatenate(chunks), rate_hz
