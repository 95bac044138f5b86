"""Check that a loaded codec computes finite values in its dtype.

In: a `MimiDecoder`. Out: whether every convolution's outputs were finite, for frames that use every
vector of every codebook. An overflow elsewhere, in the transformer, reaches a convolution as
infinity or NaN; that of a convolution may not reach the samples, since ELU maps minus infinity
to -1. The module must not know which dtype is used in its place.
"""

from functools import partial

import torch
from torch import Tensor

from csm_trio.model.config import MimiConfig
from csm_trio.model.mimi.convolution import CausalConv, TorchConvolutions
from csm_trio.model.mimi.decoder import DecoderKernels, MimiDecoder

_STREAMS = 16
_SEED = 0


class _WatchedConvolutions(TorchConvolutions):
    """The convolutions in torch operations; `finite` becomes False at an output that is not."""

    def __init__(self, past: Tensor, *, finite: Tensor) -> None:
        super().__init__(past)
        self._finite = finite  # [] bool

    def outputs(self, conv: CausalConv, inputs: Tensor, add: Tensor | None = None) -> Tensor:
        outputs = super().outputs(conv, inputs, add)
        self._finite &= outputs.isfinite().all()
        return outputs


@torch.inference_mode()
def stays_finite(codec: MimiDecoder, config: MimiConfig) -> bool:
    """Decode codebook_size frames, in several streams, and return whether all values are finite.

    Each codebook's entries come in an order of their own, each once: sums that are louder and
    rougher than speech.
    """
    device = codec.dequantizer.table.device
    codes = _every_entry(config).to(device)  # [frames, quantizers]
    finite = torch.tensor(True, device=device)
    kernels = DecoderKernels(
        codec.ring_positions.attending, partial(_WatchedConvolutions, finite=finite)
    )
    state = codec.open_state(_STREAMS, device=device, dtype=codec.dtype)
    for frame in torch.split(codes, _STREAMS):
        pcm = codec.decode(frame, torch.arange(len(frame), device=device), state, kernels=kernels)
        finite &= pcm.isfinite().all()
    return bool(finite)


def _every_entry(config: MimiConfig) -> Tensor:
    """Return codes [codebook_size, quantizers] in which each column has every entry once."""
    made = torch.Generator().manual_seed(_SEED)
    columns = [
        torch.randperm(config.codebook_size, generator=made) for _ in range(config.quantizers)
    ]
    return torch.stack(columns, 1)
