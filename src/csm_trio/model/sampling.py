"""Sample one code per row with the row's own temperature, top-k and seed, on the device.

Sampling is by Gumbel-max. The noise is a function of (seed, frame, codebook, id) alone: a row
samples the same codes in every batch, and nothing here synchronizes with the host.
"""

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
# Tensors: torch takes longer to convert a number for each operation than to compute it.
_GOLDEN_STRIDE = torch.tensor(_GOLDEN)
_FRAME_STRIDE = torch.tensor(0x632BE59BD9B4E019)
_MIX_1 = torch.tensor(0xBF58476D1CE4E5B9 - (1 << 64))
_MIX_2 = torch.tensor(0x94D049BB133111EB - (1 << 64))
_UNIFORM_BITS = 24  # number of bits that a float32 mantissa holds exactly
_SHIFTS = {
    bits: (torch.tensor(bits), torch.tensor((1 << (64 - bits)) - 1))
    for bits in (30, 27, 31, 64 - _UNIFORM_BITS)
}


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shift 64-bit words right, filling with zeros (torch's own shift copies the sign)."""
    distance, kept = _SHIFTS[bits]
    return (x >> distance).bitwise_and_(kept)


def _mixed(x: Tensor) -> Tensor:
    """Scramble 64-bit words by splitmix64's finalizer (Steele et al., OOPSLA 2014)."""
    x = _shifted(x, 30).bitwise_xor_(x).mul_(_MIX_1)
    x = _shifted(x, 27).bitwise_xor_(x).mul_(_MIX_2)
    return _shifted(x, 31).bitwise_xor_(x)


def gumbel_noise(seeds: Tensor, frames: Tensor, codebook: int, ids: Tensor) -> Tensor:
    """Return standard Gumbel noise [rows, ids] in float32, the same for the same arguments.

    seeds, frames: int64 [rows]; ids: int64 [ids]. The argmax of
    logits plus this noise is a sample from their softmax (Gumbel-max).
    """
    # Wrapped to int64: not every torch version takes Python integers of more than 64 bits.
    golden = (codebook * _GOLDEN + (1 << 63)) % (1 << 64) - (1 << 63)
    streams = _mixed(_mixed(seeds + golden) + frames * _FRAME_STRIDE)
    words = _mixed(streams.unsqueeze(1) + ids * _GOLDEN_STRIDE)  # [rows, ids]
    return _uniform(words).log_().neg_().log_().neg_()


def _uniform(words: Tensor) -> Tensor:
    """Map 64-bit words to float32 strictly between 0 and 1."""
    halfway = (_shifted(words, 64 - _UNIFORM_BITS).float() + 0.5).mul_(2.0**-_UNIFORM_BITS)
    # The largest value rounds to 1, whose infinite noise would outweigh every logit.
    return halfway.clamp_(max=1 - 2.0**-_UNIFORM_BITS)


def sample_codes(
    logits: Tensor, *, temperature: Tensor, top_k: Tensor, noise: Tensor, largest_k: int
) -> Tensor:
    """Sample one id per row from float32 logits [rows, ids]; ties with the k-th logit are kept.

    temperature: float32 [rows], 0 is greedy; top_k: int64 [rows], 1..largest_k; noise: Gumbel
    [rows, ids]. Returns int64 [rows].
    """
    ranks = (top_k - 1).clamp(max=logits.shape[1] - 1).unsqueeze(1)
    best = logits.topk(min(largest_k, logits.shape[1]), dim=1).values
    threshold = best.gather(1, ranks)
    greedy = (temperature <= 0).unsqueeze(1)
    divisor = temperature.clamp(min=1e-4).unsqueeze(1)
    noisy = (logits / divisor + noise).masked_fill(logits < threshold, -torch.inf)
    return torch.where(greedy, logits, noisy).argmax(dim=1)
