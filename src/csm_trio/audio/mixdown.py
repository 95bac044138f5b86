"""From several channels to one, and from any offset to none.

The module must not know files, speech or levels in LUFS.
"""

import numpy as np
from numpy.typing import NDArray

_CORNER_HZ = 20.0  # below every voice; removes a constant offset and one that drifts
_PAD_S = 0.25
_QUIETEST_ENERGY = 0.01  # of the loudest channel's: 20 dB less
_CANCELLED_ENERGY = 0.25  # of the loudest channel's; two unrelated channels leave a half


def high_pass(
    samples: NDArray[np.float32], sample_rate_hz: int, corner_hz: float, *, order: int
) -> NDArray[np.float32]:
    """Return samples [n] without what lies below a corner, without delay.

    The response is 1/2 at the corner and falls by 6 dB per octave and order.
    """
    if not samples.size:
        return samples
    pad = round(_PAD_S * sample_rate_hz)
    padded = np.pad(samples, pad, mode="edge")
    # A whole number of seconds is a length that the transform is fast for.
    n = -(-len(padded) // sample_rate_hz) * sample_rate_hz
    padded = np.pad(padded, (0, n - len(padded)), mode="edge")
    ratio = (np.fft.rfftfreq(n, 1 / sample_rate_hz) / corner_hz) ** order
    response = (ratio / (1 + ratio)).astype(np.float32)
    filtered = np.fft.irfft(np.fft.rfft(padded) * response, n)
    kept: NDArray[np.float32] = filtered[pad : pad + len(samples)].astype(np.float32)
    return kept


def mix_to_mono(channels: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.float32]:
    """Return one channel [n] of [n, channels], without offset.

    It is the mean of the channels, except of those 20 dB quieter than the loudest. Where they
    cancel each other, as with an inverted phase, it is the loudest alone.
    """
    clean = np.stack(
        [high_pass(channel, sample_rate_hz, _CORNER_HZ, order=8) for channel in channels.T]
    )
    energies = np.array([np.dot(channel, channel) for channel in clean])
    loudest = int(energies.argmax())
    mean: NDArray[np.float32] = clean[energies >= _QUIETEST_ENERGY * energies[loudest]].mean(axis=0)
    if np.dot(mean, mean) < _CANCELLED_ENERGY * energies[loudest]:
        loudest_channel: NDArray[np.float32] = clean[loudest]
        return loudest_channel
    return mean
