"""G.711 mu-law: 16-bit samples in, one byte a sample out, and back.

It must not know sample rates or streams: every sample stands alone. After ITU-T Recommendation
G.711 (11/88), tables 2a and 2b.
"""

import numpy as np
from numpy.typing import NDArray

# Table 2a: the magnitudes, in 14-bit units, at which the code's segment and step begin. The first
# (-1) is only formal: magnitude 0 lies in step 0.
_DECISIONS = np.array(
    [((16 + step) << (segment + 1)) - 33 for segment in range(8) for step in range(16)],
    dtype=np.int32,
)


def _encode_table() -> NDArray[np.uint8]:
    """Return the code of every 16-bit sample, indexed by the sample's bits as unsigned."""
    samples = np.arange(1 << 16, dtype=np.uint16).view(np.int16).astype(np.int32)
    # 16 to 14 bits by arithmetic shift, as G.711's uniform code drops the two low bits of
    # two's complement; so -1 is magnitude 1, as in every common implementation.
    uniform = samples >> 2
    steps = np.searchsorted(_DECISIONS, np.abs(uniform), side="right") - 1
    sign = np.where(uniform < 0, 0x80, 0)
    codes: NDArray[np.int64] = ~(sign | steps)  # G.711 sends mu-law with all bits inverted
    return codes.astype(np.uint8)


def _decode_table() -> NDArray[np.int16]:
    """Return the 16-bit sample of every code."""
    codes = ~np.arange(1 << 8, dtype=np.int32)
    segment, step = codes >> 4 & 0x07, codes & 0x0F
    magnitude = ((2 * step + 33) << segment) - 33  # the middle between two decisions, 14 bits
    return np.where(codes & 0x80, -magnitude * 4, magnitude * 4).astype(np.int16)


_CODE_OF_SAMPLE = _encode_table()
_SAMPLE_OF_CODE = _decode_table()


def encode_ulaw(pcm: NDArray[np.int16]) -> bytes:
    """Return one mu-law byte for each 16-bit sample, bit-exact to G.711."""
    return _CODE_OF_SAMPLE[pcm.view(np.uint16)].tobytes()


def decode_ulaw(data: bytes) -> NDArray[np.int16]:
    """Return one 16-bit sample for each mu-law byte, bit-exact to G.711."""
    return _SAMPLE_OF_CODE[np.frombuffer(data, dtype=np.uint8)]
