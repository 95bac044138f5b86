"""G.711, mu-law and A-law: 16-bit samples in, one byte a sample out, and back.

The module must not know sample rates or streams: every sample is coded on its own. After ITU-T
Recommendation G.711 (11/88), tables 1a and 1b (A-law), 2a and 2b (mu-law).
"""

import numpy as np
from numpy.typing import NDArray

_EVERY_SAMPLE = np.arange(1 << 16, dtype=np.uint16).view(np.int16).astype(np.int32)
_EVERY_CODE = np.arange(1 << 8, dtype=np.int32)

# Table 2a: the magnitudes, in 14-bit units, at which the code's segment and step begin. The first
# (-1) is never compared: magnitude 0 lies in step 0.
_ULAW_DECISIONS = np.array(
    [((16 + step) << (segment + 1)) - 33 for segment in range(8) for step in range(16)],
    dtype=np.int32,
)

# Table 1a, in 13-bit units: 32 equal steps of 2, then every segment of 16 doubles them.
_ALAW_DECISIONS = np.array(
    [(step + 16 * (segment > 0)) << max(1, segment) for segment in range(8) for step in range(16)],
    dtype=np.int32,
)
# Under table 1a: A-law is sent with its even bits inverted.
_ALAW_EVEN_BITS = 0x55


def _ulaw_codes() -> NDArray[np.uint8]:
    """Return the code of every 16-bit sample, indexed by the sample's bits as unsigned."""
    # 16 to 14 bits by arithmetic shift, as G.711's uniform code drops the two low bits of
    # two's complement; so -1 is magnitude 1, as in every common implementation.
    uniform = _EVERY_SAMPLE >> 2
    steps = np.searchsorted(_ULAW_DECISIONS, np.abs(uniform), side="right") - 1
    sign = np.where(uniform < 0, 0x80, 0)
    codes: NDArray[np.int64] = ~(sign | steps)  # G.711 sends mu-law with all bits inverted
    return codes.astype(np.uint8)


def _ulaw_samples() -> NDArray[np.int16]:
    """Return the 16-bit sample of every code."""
    codes = ~_EVERY_CODE
    segment, step = codes >> 4 & 0x07, codes & 0x0F
    magnitude = ((2 * step + 33) << segment) - 33  # the middle between two decisions, 14 bits
    return np.where(codes & 0x80, -magnitude * 4, magnitude * 4).astype(np.int16)


def _alaw_codes() -> NDArray[np.uint8]:
    """Return the code of every 16-bit sample, indexed by the sample's bits as unsigned."""
    uniform = _EVERY_SAMPLE >> 3  # 13 bits of two's complement, in which -1 is the first below 0
    magnitude = np.where(uniform < 0, ~uniform, uniform)
    steps = np.searchsorted(_ALAW_DECISIONS, magnitude, side="right") - 1
    sign = np.where(uniform < 0, 0, 0x80)
    codes: NDArray[np.int64] = (sign | steps) ^ _ALAW_EVEN_BITS
    return codes.astype(np.uint8)


def _alaw_samples() -> NDArray[np.int16]:
    """Return the 16-bit sample of every code."""
    codes = _EVERY_CODE ^ _ALAW_EVEN_BITS
    segment, step = codes >> 4 & 0x07, codes & 0x0F
    doubled = 2 * step + 1 + 32 * (segment > 0)  # the middle between two decisions, doubled
    magnitude: NDArray[np.int32] = doubled << np.maximum(segment - 1, 0)
    return np.where(codes & 0x80, magnitude * 8, -magnitude * 8).astype(np.int16)


_ULAW_OF_SAMPLE, _SAMPLE_OF_ULAW = _ulaw_codes(), _ulaw_samples()
_ALAW_OF_SAMPLE, _SAMPLE_OF_ALAW = _alaw_codes(), _alaw_samples()


def encode_ulaw(pcm: NDArray[np.int16]) -> bytes:
    """Return one mu-law byte for each 16-bit sample, bit-exact to G.711."""
    return _ULAW_OF_SAMPLE.take(pcm.view(np.uint16)).tobytes()


def decode_ulaw(data: bytes) -> NDArray[np.int16]:
    """Return one 16-bit sample for each mu-law byte, bit-exact to G.711."""
    return _SAMPLE_OF_ULAW[np.frombuffer(data, dtype=np.uint8)]


def encode_alaw(pcm: NDArray[np.int16]) -> bytes:
    """Return one A-law byte for each 16-bit sample, bit-exact to G.711."""
    return _ALAW_OF_SAMPLE.take(pcm.view(np.uint16)).tobytes()


def decode_alaw(data: bytes) -> NDArray[np.int16]:
    """Return one 16-bit sample for each A-law byte, bit-exact to G.711."""
    return _SAMPLE_OF_ALAW[np.frombuffer(data, dtype=np.uint8)]
