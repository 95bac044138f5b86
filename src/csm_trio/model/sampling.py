"""Sample one code per row with the row's own temperature, top-k and seed.

Sampling is by Gumbel-max. The noise is a function of (seed, frame, codebook, id) alone: a row
samples the same codes in every batch. It is computed on the host, where all of these are known;
nothing is read back from the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csm_trio.model.config import SamplingParams

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FRAME_STRIDE = 0x632BE59BD9B4E019
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_UNIFORM_BITS = 24  # number of bits that a float32 mantissa holds exactly
_TEMPERATURE_MIN = 1e-4
_FRAMES_AT_ONCE = 8

_Words = TypeVar("_Words", int, NDArray[np.uint64])


@dataclass(frozen=True, slots=True)
class RowSampling:
    """Sampling parameters of the rows of a batch, for the backbone or for the depth decoder.

    divisor: float32 [rows, 1], the temperature; ranks: int64 [rows, 1], that of the least likely id
    to sample, from 0; largest_k: above all ranks; greedy: bool [rows, 1], or None where no row is.
    """

    divisor: Tensor
    ranks: Tensor
    largest_k: int
    greedy: Tensor | None


def row_sampling(
    params: Sequence[SamplingParams], *, ids: int, device: torch.device
) -> RowSampling | None:
    """Return the parameters of a batch whose rows have `params`; None where all are greedy.

    ids: the number of ids to sample from.
    """
    greedy = [row.temperature <= 0 for row in params]
    if all(greedy):
        return None
    top_k = [min(row.top_k, ids) for row in params]
    divisors = [max(row.temperature, _TEMPERATURE_MIN) for row in params]
    return RowSampling(
        divisor=torch.tensor(divisors, dtype=torch.float32, device=device).unsqueeze(1),
        ranks=torch.tensor(top_k, device=device).sub_(1).unsqueeze(1),
        largest_k=max(top_k),
        greedy=torch.tensor(greedy, device=device).unsqueeze(1) if any(greedy) else None,
    )


def sample_codes(logits: Tensor, rows: RowSampling, noise: Tensor) -> Tensor:
    """Sample one id per row from float32 logits [rows, ids]; ties with the k-th logit are kept.

    noise: Gumbel [rows, ids]. Returns int64 [rows].
    """
    threshold = logits.topk(rows.largest_k, dim=1).values.gather(1, rows.ranks)
    noisy = (logits / rows.divisor).add_(noise).masked_fill_(logits < threshold, -torch.inf)
    if rows.greedy is not None:
        noisy = torch.where(rows.greedy, logits, noisy)
    return noisy.argmax(dim=1)


class RowNoise:
    """The noise of one row, computed for several frames at a time: starting takes longest."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._blocks: dict[int, tuple[int, Tensor]] = {}

    def at(self, frame: int, codebook: int, ids: int) -> Tensor:
        """Return the Gumbel noise of a frame's codebook: float32 [1, ids], on the host."""
        first = frame - frame % _FRAMES_AT_ONCE
        begun, noise = self._blocks.get(codebook, (None, None))
        if noise is None or begun != first:
            noise = gumbel_noise(self._seed, range(first, first + _FRAMES_AT_ONCE), codebook, ids)
            self._blocks[codebook] = first, noise
        return noise.narrow(0, frame - first, 1)


def gumbel_noise(seed: int, frames: Sequence[int], codebook: int, ids: int) -> Tensor:
    """Return standard Gumbel noise [frames, ids] in float32, the same for the same arguments.

    The argmax of logits plus this noise is a sample from their softmax (Gumbel-max).
    """
    stream = _mixed((seed + codebook * _GOLDEN) & _MASK)
    streams = [_mixed((stream + frame * _FRAME_STRIDE) & _MASK) for frame in frames]
    words = np.array(streams, np.uint64)[:, None] + _strides(ids)  # [frames, ids]
    return torch.from_numpy(_uniform(_mixed(words))).log_().neg_().log_().neg_()


@lru_cache(maxsize=8)
def _strides(ids: int) -> NDArray[np.uint64]:
    """Return what each id adds to a frame's word."""
    return np.arange(ids, dtype=np.uint64) * np.uint64(_GOLDEN)


def _mixed(x: _Words) -> _Words:
    """Scramble 64-bit words by splitmix64's finalizer (Steele et al., OOPSLA 2014)."""
    words: Any = x  # numpy's types have no operations of uint64 with int
    words = (words ^ words >> 30) * _MIX_1 & _MASK
    words = (words ^ words >> 27) * _MIX_2 & _MASK
    return cast(_Words, words ^ words >> 31)


def _uniform(words: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Map 64-bit words to float32 strictly between 0 and 1."""
    halfway = (words >> (64 - _UNIFORM_BITS)).astype(np.float32)
    halfway += 0.5
    halfway *= 2.0**-_UNIFORM_BITS
    # The largest value rounds to 1, whose infinite noise would outweigh every logit.
    return np.minimum(halfway, np.float32(1 - 2.0**-_UNIFORM_BITS), out=halfway)
