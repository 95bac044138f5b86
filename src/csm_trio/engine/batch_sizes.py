"""Find batch sizes in which a row's values on a CPU are those of the full batch, to the bit.

In: a model, a codec. Out: sizes. Libraries of matrix products choose their kernels by the number
of rows, and another kernel may add in another order. Where it does not, a step leaves unused rows
out. It is measured, since it differs from CPU to CPU.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from csm_trio.model.config import CSMConfig
from csm_trio.model.csm import CSM, FrameSampling
from csm_trio.model.linear import linear
from csm_trio.model.mimi.decoder import MimiDecoder

_CODEC_FRAMES = 2
_MAX_S = 2.0
"""Seconds after which no larger size is tried: a slow model's rows take longer than its padding."""


def model_batch_sizes(model: CSM, full: int) -> list[int]:
    """Return batch sizes of the model's step that equal a batch of `full`, which is the last."""
    noise = torch.Generator().manual_seed(0)
    weights = model.backbone.norm
    inputs = torch.randn(full, len(weights), generator=noise).to(weights.dtype)
    return equal_sizes(lambda rows: _model_values(model, inputs[rows]), full)


def codec_batch_sizes(codec: MimiDecoder, config: CSMConfig, full: int) -> list[int]:
    """Return batch sizes of the codec's step that equal a batch of `full`, which is the last."""
    noise = torch.Generator().manual_seed(0)
    shape = (_CODEC_FRAMES, full, config.codebooks)
    frames = torch.randint(config.codec.codebook_size, shape, generator=noise)
    return equal_sizes(lambda rows: _codec_values(codec, frames[:, rows]), full)


@torch.inference_mode()
def equal_sizes(compute: Callable[[slice], Tensor], full: int) -> list[int]:
    """Return the sizes up to `full` at which `compute` equals the same rows of the full batch.

    compute: values [rows, ...] of the rows that a slice of the full batch has. Both ends of the
    batch are compared.
    """
    candidates = _candidates(full)
    if not candidates:
        return [full]
    until_s = time.perf_counter() + _MAX_S
    expected = compute(slice(0, full))
    equal = []
    for size in candidates:
        parts = (slice(0, size), slice(full - size, full))
        if all(torch.equal(compute(part), expected[part]) for part in parts):
            equal.append(size)
        if time.perf_counter() > until_s:
            break
    return [*equal, full]


def _candidates(full: int) -> list[int]:
    """Return sizes below `full`: powers of 2, and the sizes halfway between."""
    sizes = {size for power in range(full.bit_length()) for size in (1 << power, 3 << power >> 1)}
    return sorted(size for size in sizes if size < full)


def _model_values(model: CSM, inputs: Tensor) -> Tensor:
    """Return hidden states, codes and sums of logits of one greedy frame [rows, values].

    Every position attends to itself alone: attention over the KV cache is row by row anyway.
    """
    rows = len(inputs)
    config = model.config.backbone

    def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return values.repeat_interleave(config.heads // config.kv_heads, dim=2)

    greedy = FrameSampling(halves=(None, None), noise=())
    cos, sin = model.rotary.at(torch.zeros(rows, 1, dtype=torch.int64))
    hidden = model.backbone(inputs[:, None], cos, sin, attend)[:, 0]
    codes, sums = model.decode_depth(hidden, linear(hidden, model.first_head), greedy)
    return torch.cat((hidden.float(), sums, codes.float()), dim=1)


def _codec_values(codec: MimiDecoder, frames: Tensor) -> Tensor:
    """Return the samples of frames [frames, rows, codebooks] of new streams: [rows, samples]."""
    n_rows = frames.shape[1]
    state = codec.open_state(n_rows, device=frames.device, dtype=codec.dtype)
    rows = torch.arange(n_rows)
    return torch.cat([codec.decode(codes, rows, state) for codes in frames], dim=1)
