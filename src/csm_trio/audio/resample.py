"""Streaming resampler: convert one sample rate to another while the audio is generated.

The module must not know frames, codecs or formats.
"""

import numpy as np
import soxr  # type: ignore[import-untyped]
from numpy.typing import NDArray

from csm_trio.audio.pcm import to_int16


class Resampler:
    """Resample one mono stream, with soxr's HQ filter; equal rates pass through untouched.

    The output does not depend on how the input is divided, and the whole output is
    `input * target_hz / source_hz` samples long, to the nearest one. Peaks that the filter lifts
    over full scale saturate. HQ holds back about 19 ms of sound until `finish`.
    """

    def __init__(self, source_hz: int, target_hz: int) -> None:
        # Float inside: soxr's own conversion to int16 adds dither, which depends on the division.
        self._stream = (
            None
            if source_hz == target_hz
            else soxr.ResampleStream(source_hz, target_hz, 1, dtype="float32", quality="HQ")
        )

    def feed(self, pcm: NDArray[np.int16]) -> NDArray[np.int16]:
        """Take samples [n]; return the output samples that they complete, possibly none."""
        return pcm if self._stream is None else self._resample(pcm, last=False)

    def finish(self) -> NDArray[np.int16]:
        """Return the samples held back and end the stream; no call may follow."""
        nothing = np.zeros(0, dtype=np.int16)
        return nothing if self._stream is None else self._resample(nothing, last=True)

    def _resample(self, pcm: NDArray[np.int16], *, last: bool) -> NDArray[np.int16]:
        assert self._stream is not None
        sound: NDArray[np.float32] = self._stream.resample_chunk(pcm.astype(np.float32), last=last)
        return to_int16(sound)
