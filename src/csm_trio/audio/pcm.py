"""Conversion between 16-bit and floating-point samples."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_FULL_SCALE = np.float32(32_768)


def to_float(pcm: NDArray[np.int16]) -> NDArray[np.float32]:
    """Return the samples scaled to [-1, 1), in the same shape."""
    scaled: NDArray[np.float32] = pcm.astype(np.float32) / _FULL_SCALE
    return scaled


def to_int16(samples: NDArray[np.floating[Any]]) -> NDArray[np.int16]:
    """Return samples in 16-bit units rounded to integers; values beyond full scale saturate."""
    pcm: NDArray[np.int16] = np.clip(np.rint(samples), -32_768, 32_767).astype(np.int16)
    return pcm
