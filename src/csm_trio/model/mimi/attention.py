"""Mimi's windowed attention over rings of slots: time, sight, and the attending in torch.

In: rows, their clocks, and the layers' queries, keys and values. Out: mixed values, the new keys
kept in the rings. It knows no weights and no convolution.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csm_trio.model.config import MimiConfig

RING_MULTIPLE = 8
"""Attention kernels want the rows of their mask aligned to this many elements."""


@dataclass(frozen=True, slots=True)
class MimiPositions:
    """Where the rows of one step stand in time; all layers share it."""

    rows: Tensor  # [batch] slots
    start: Tensor  # [batch] the first new position of each
    cosines: Tensor  # [batch, steps, 1, head_dim] fp32
    sines: Tensor  # [batch, steps, 1, head_dim] fp32, negative in the first half


RingAttend = Callable[[Tensor, Tensor], Tensor]
"""(q, k and v [batch, steps, (heads + 2 kv_heads) * dim] as projected, the layer's ring
[slots, capacity, 2, kv_heads, dim]) -> [batch, steps, heads * dim]; it keeps the new keys."""


class FullPrecision(nn.Module):
    """A module whose floats stay fp32 when a tree that holds it is cast: it only moves."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        return self


class RingPositions(FullPrecision):
    """RoPE angles, ring places and sight of the rows of a step, from their positions."""

    inv_freq: Tensor  # [head_dim / 2] fp32: in bf16 the angles are wrong within seconds
    sign: Tensor  # [head_dim] fp32, -1 in the first half
    steps: Tensor  # [steps] int64, from 0
    ring: Tensor  # [capacity] int64, from 0

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        self._config = config
        self.capacity = _ring_capacity(config)
        half = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        self.register_buffer("inv_freq", 1.0 / config.rope_theta**half)
        sign = torch.ones(config.head_dim, dtype=torch.float32)
        sign[: config.head_dim // 2] = -1
        self.register_buffer("sign", sign)
        self.register_buffer("steps", torch.arange(config.upsample_stride))
        self.register_buffer("ring", torch.arange(self.capacity))

    def forward(self, rows: Tensor, start: Tensor) -> MimiPositions:
        """Tell the time of `rows` [batch] whose first new position is `start` [batch]."""
        now = start[:, None] + self.steps  # [batch, steps]
        angles = now[:, :, None].float() * self.inv_freq
        angles = torch.cat((angles, angles), -1)[:, :, None]  # [batch, steps, 1, head_dim]
        return MimiPositions(rows, start, angles.cos(), angles.sin() * self.sign)

    def attending(self, clock: MimiPositions) -> RingAttend:
        """Attend by torch's own operations."""
        config, rows = self._config, clock.rows
        groups = config.heads // config.kv_heads
        now = clock.start[:, None] + self.steps  # [batch, steps]
        last = now[:, -1:]
        # The newest position each place of the ring can hold; below zero: not of this tenant.
        held = last - torch.remainder(last - self.ring, self.capacity)  # [batch, capacity]
        age = now[:, :, None] - held[:, None]  # [batch, steps, capacity]
        visible = (age >= 0) & (age < config.sliding_window) & (held >= 0)[:, None]
        # [batch, 1, groups * steps, capacity]
        visible = visible[:, None].expand(-1, groups, -1, -1).flatten(1, 2)[:, None]
        places = (rows[:, None] * self.capacity + now % self.capacity).flatten()

        def attend(qkv: Tensor, ring: Tensor) -> Tensor:
            query, keys_values = self._heads(qkv, clock)
            # Slots and places as one dimension: [slots * capacity, 2, kv_heads, head_dim].
            ring.view(-1, *ring.shape[2:]).index_copy_(0, places, keys_values)
            seen = ring.index_select(0, rows)  # [batch, capacity, 2, kv_heads, head_dim]
            keys, values = seen.permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=visible)
            mixed = mixed.reshape(len(rows), config.heads, -1, config.head_dim)
            return mixed.transpose(1, 2).flatten(2)

        return attend

    def _heads(self, qkv: Tensor, clock: MimiPositions) -> tuple[Tensor, Tensor]:
        """Return queries [batch, kv_heads, groups * steps, dim], ring entries [.., 2, ..]."""
        config = self._config
        batch, steps, _ = qkv.shape
        heads, kv_heads, head_dim = config.heads, config.kv_heads, config.head_dim
        qkv = qkv.view(batch, steps, -1, head_dim)
        turned = _rotate(qkv[:, :, : heads + kv_heads], clock)
        query = turned[:, :, :heads].transpose(1, 2)  # [batch, heads, steps, head_dim]
        query = query.reshape(batch, kv_heads, -1, head_dim)
        keys_values = torch.cat((turned[:, :, heads:], qkv[:, :, heads + kv_heads :]), 2)
        return query, keys_values.view(batch * steps, 2, kv_heads, head_dim)


def _rotate(heads: Tensor, clock: MimiPositions) -> Tensor:
    """Turn [batch, steps, heads, head_dim] by the rows' angles, in fp32 (half-split RoPE)."""
    swapped = heads.roll(heads.shape[-1] // 2, -1)
    return torch.addcmul(heads * clock.cosines, swapped, clock.sines).to(heads.dtype)


def _ring_capacity(config: MimiConfig) -> int:
    """Size a ring so that a step's entries, written first, hide none its first query sees."""
    least = config.sliding_window + config.upsample_stride
    return -(-least // RING_MULTIPLE) * RING_MULTIPLE
