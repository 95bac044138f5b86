"""From one sample rate to another while the sound is still being made: samples in, samples out.

It must not know frames, codecs or formats.
"""

import numpy as np
import soxr  # type: ignore[import-untyped]
from numpy.typing import NDArray


class Resampler:
    """Resample one mono stream, with soxr's HQ filter; equal rates pass through untouched.

    Any cutting of the same input gives exactly the same output, and the whole output is
    `input * target_hz / source_hz` samples long, to the nearest one. Peaks that the filter lifts
    over full scale saturate. HQ holds back about 19 ms of sound until `finish`.
    """

    def __init__(self, source_hz: int, target_hz: int) -> None:
        # Float inside: soxr's own way to int16 adds dither, which depends on the cutting.
        self._stream = (
            None
            if source_hz == target_hz
            else soxr.ResampleStream(source_hz, target_hz, 1, dtype="float32", quality="HQ")
        )

    def feed(self, pcm: NDArray[np.int16]) -> NDArray[np.int16]:
        """Return what can be known of the output after these samples: any number, also none."""
        return pcm if self._stream is None else self._resample(pcm, last=False)

    def finish(self) -> NDArray[np.int16]:
        """Return what was held back. This ends the stream: call nothing after it."""
        nothing = np.zeros(0, dtype=np.int16)
        return nothing if self._stream is None else self._resample(nothing, last=True)

    def _resample(self, pcm: NDArray[np.int16], *, last: bool) -> NDArray[np.int16]:
        assert self._stream is not None
        sound: NDArray[np.float32] = self._stream.resample_chunk(pcm.astype(np.float32), last=last)
        return np.clip(np.rint(sound), -32_768, 32_767).astype(np.int16)
