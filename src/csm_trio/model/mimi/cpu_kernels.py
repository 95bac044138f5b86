"""The codec's convolutions and attention on a CPU: the same operations in torch, fewer of them.

In: a step's contexts and positions. Out: `DecoderKernels` for exactly `rows` rows. Scratch and
views are made once, since at the embedded voice's sizes an operation takes longer to start than to
compute. Values equal those of `TorchConvolutions` and `RingPositions.attending`, to the bit.
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from csm_trio.model.config import MimiConfig
from csm_trio.model.linear import Product, product_by
from csm_trio.model.mimi.attention import MimiPositions, RingAttend, RingPositions
from csm_trio.model.mimi.convolution import CausalConv, TorchConvolutions, tapped
from csm_trio.model.mimi.decoder import DecoderKernels, MimiDecoder
from csm_trio.model.rotation import Rotation


def cpu_kernels(codec: MimiDecoder, config: MimiConfig, rows: int) -> DecoderKernels:
    """Return the kernels of a float32 codec for steps of `rows` rows."""
    attention = _CpuAttention(codec.ring_positions, config, rows)
    convolutions = CpuConvolutions(rows, codec.context_floats)
    return DecoderKernels(attending=attention.begin, convolving=convolutions.begin)


@dataclass(frozen=True, slots=True)
class _Convolution:
    """A convolution's product, and the scratch of its windows."""

    times: Product
    outputs: tuple[int, int, int]  # batch, time, channels
    past: Tensor  # [batch, context, channels]
    joined: Tensor  # [batch, context + time, channels]
    latest: Tensor  # [batch, context, channels], the end of `joined`
    fresh: Tensor  # [batch, context, channels], of the next step's contexts
    tapped: Tensor  # [batch, time, taps, channels], of `joined`
    windows: Tensor  # [batch, time, taps, channels]
    rows: Tensor  # [batch * time, taps * channels], of `windows`


class CpuConvolutions(TorchConvolutions):
    """The convolutions of every step: the first one's calls make the scratch of all."""

    def __init__(self, rows: int, floats: int) -> None:
        super().__init__(torch.empty(rows, floats))
        self._collected = torch.empty(rows, floats)
        self._convolutions: list[_Convolution] = []
        self._next = 0

    def begin(self, past: Tensor) -> Self:
        """Begin a step from the rows' contexts [rows, floats]."""
        self._past.copy_(past)
        self._next = 0
        return self

    def collect(self) -> Tensor:
        return self._collected

    def outputs(self, conv: CausalConv, inputs: Tensor, add: Tensor | None = None) -> Tensor:
        if self._next == len(self._convolutions):
            self._convolutions.append(self._convolution(conv, inputs))
        made = self._convolutions[self._next]
        self._next += 1
        if conv.context:
            torch.cat((made.past, inputs), 1, out=made.joined)
            made.fresh.copy_(made.latest)
            made.windows.copy_(made.tapped)
            flat = made.rows
        else:
            flat = inputs.view(made.rows.shape)
        outputs = made.times(flat).view(made.outputs)
        return outputs if add is None else outputs.add_(add)

    def _convolution(self, conv: CausalConv, inputs: Tensor) -> _Convolution:
        batch, time, channels = inputs.shape
        start, end = self._start, self._start + conv.context_floats
        self._start = end
        context = (batch, conv.context, channels)
        joined = inputs.new_empty(batch, conv.context + time, channels)
        windows = inputs.new_empty(batch, time, conv.taps, channels)
        return _Convolution(
            times=product_by(conv.weight, conv.bias),
            outputs=(batch, time * len(conv.weight) // conv.outputs, conv.outputs),
            past=self._past[:, start:end].view(context),
            joined=joined,
            latest=joined[:, time:],
            fresh=self._collected[:, start:end].view(context),
            tapped=tapped(conv, joined, time),
            windows=windows,
            rows=windows.view(batch * time, conv.taps * channels),
        )


class _CpuAttention:
    """Attention of every step over the rings, as `RingPositions.attending` does."""

    def __init__(self, ring_positions: RingPositions, config: MimiConfig, rows: int) -> None:
        self._ring_positions = ring_positions
        steps, dim, capacity = config.upsample_stride, config.head_dim, ring_positions.capacity
        n_heads, n_keys = config.heads, config.kv_heads
        self._rotation = Rotation(rows * steps, n_heads + n_keys, values=n_keys, dim=dim)
        heads = self._rotation.rotated.view(rows, steps, -1, dim)
        self._queries = heads[:, :, :n_heads].transpose(1, 2)  # [rows, heads, steps, dim]
        self._grouped = (rows, n_keys, -1, dim)
        self._keys_values = heads[:, :, n_heads:].view(rows * steps, 2, n_keys, dim)
        self._past = torch.empty(rows, capacity, 2, n_keys, dim)
        self._keys, self._values = self._past.permute(2, 0, 3, 1, 4)
        self._by_head = (rows, n_heads, steps, dim)

    def begin(self, positions: MimiPositions) -> RingAttend:
        """Begin a step."""
        mask = self._ring_positions.mask(positions)
        rows, offsets = positions.rows, mask.offsets
        angles = self._rotation.angles(
            positions.cosines.flatten(0, 1), positions.sines.flatten(0, 1)
        )

        def attend(qkv: Tensor, ring: Tensor) -> Tensor:
            self._rotation.rotate(qkv.flatten(0, 1), angles)
            ring.view(-1, *ring.shape[2:]).index_copy_(0, offsets, self._keys_values)
            torch.index_select(ring, 0, rows, out=self._past)
            mixed = F.scaled_dot_product_attention(
                self._queries.reshape(self._grouped),
                self._keys,
                self._values,
                attn_mask=mask.visible,
            )
            return mixed.reshape(self._by_head).transpose(1, 2).flatten(2)

        return attend
