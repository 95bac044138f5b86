"""Mimi's sliding-window attention over one ring-buffer KV cache per slot, in torch operations.

In: rows, their positions, and the layers' queries, keys and values. Out: attention outputs; the
new keys and values are written to the rings. It must not know weights or convolutions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csm_trio.model.config import MimiConfig
from csm_trio.model.llama import rotate

RING_MULTIPLE = 8
"""Number of ring entries that a ring's capacity is a multiple of: fused attention kernels need
the rows of their mask aligned to it."""


@dataclass(frozen=True, slots=True)
class MimiPositions:
    """Positions and RoPE angles of the rows of one step; all layers share them."""

    rows: Tensor  # [batch] slots
    start: Tensor  # [batch] first new position of each row
    cosines: Tensor  # [batch, steps, 1, head_dim] fp32
    sines: Tensor  # [batch, steps, 1, head_dim] fp32, negative in the first half


@dataclass(frozen=True, slots=True)
class RingMask:
    """Where a step writes its keys and values, and which ring entries its queries see."""

    visible: Tensor  # [batch, 1, groups * steps, capacity] bool
    offsets: Tensor  # [batch * steps] int64, in slots and their ring entries as one dimension


RingAttend = Callable[[Tensor, Tensor], Tensor]
"""(q, k and v [batch, steps, (heads + 2 kv_heads) * dim] as projected, the layer's ring
[slots, capacity, 2, kv_heads, dim]) -> [batch, steps, heads * dim].

It writes the new keys and values to the ring."""


class FullPrecision(nn.Module):
    """A module whose floats stay fp32 when its parent is cast; `.to` only changes its device."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        return self


class RingPositions(FullPrecision):
    """RoPE angles, ring offsets and attention masks of a step, from the rows' positions."""

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
        """Return the positions of `rows` [batch] whose first new position is `start` [batch]."""
        now = start[:, None] + self.steps  # [batch, steps]
        angles = now[:, :, None].float() * self.inv_freq
        angles = torch.cat((angles, angles), -1)[:, :, None]  # [batch, steps, 1, head_dim]
        return MimiPositions(rows, start, angles.cos(), angles.sin() * self.sign)

    def mask(self, positions: MimiPositions) -> RingMask:
        """Return where a step writes to the rings, and what it sees of them."""
        config = self._config
        groups = config.heads // config.kv_heads
        now = positions.start[:, None] + self.steps  # [batch, steps]
        last = now[:, -1:]
        # Newest position that each ring entry can hold; below zero: left by an earlier stream.
        held = last - torch.remainder(last - self.ring, self.capacity)  # [batch, capacity]
        age = now[:, :, None] - held[:, None]  # [batch, steps, capacity]
        visible = (age >= 0) & (age < config.sliding_window) & (held >= 0)[:, None]
        return RingMask(
            visible=visible[:, None].expand(-1, groups, -1, -1).flatten(1, 2)[:, None],
            offsets=(positions.rows[:, None] * self.capacity + now % self.capacity).flatten(),
        )

    def attending(self, positions: MimiPositions) -> RingAttend:
        """Return the attention of one step in torch operations."""
        config, rows = self._config, positions.rows
        mask = self.mask(positions)

        def attend(qkv: Tensor, ring: Tensor) -> Tensor:
            query, keys_values = self._heads(qkv, positions)
            # Slots and ring entries as one dimension: [slots * capacity, 2, kv_heads, head_dim].
            ring.view(-1, *ring.shape[2:]).index_copy_(0, mask.offsets, keys_values)
            past = ring.index_select(0, rows)  # [batch, capacity, 2, kv_heads, head_dim]
            keys, values = past.permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask.visible)
            mixed = mixed.reshape(len(rows), config.heads, -1, config.head_dim)
            return mixed.transpose(1, 2).flatten(2)

        return attend

    def _heads(self, qkv: Tensor, positions: MimiPositions) -> tuple[Tensor, Tensor]:
        """Return queries [batch, kv_heads, groups * steps, dim], ring entries [.., 2, ..]."""
        config = self._config
        batch, steps, _ = qkv.shape
        heads, kv_heads, head_dim = config.heads, config.kv_heads, config.head_dim
        qkv = qkv.view(batch, steps, -1, head_dim)
        rotated = rotate(qkv[:, :, : heads + kv_heads], positions.cosines, positions.sines)
        query = rotated[:, :, :heads].transpose(1, 2)  # [batch, heads, steps, head_dim]
        query = query.reshape(batch, kv_heads, -1, head_dim)
        keys_values = torch.cat((rotated[:, :, heads:], qkv[:, :, heads + kv_heads :]), 2)
        return query, keys_values.view(batch * steps, 2, kv_heads, head_dim)


def _ring_capacity(config: MimiConfig) -> int:
    """Return the ring capacity at which a step's writes overwrite no key its first query needs."""
    minimum = config.sliding_window + config.upsample_stride
    return -(-minimum // RING_MULTIPLE) * RING_MULTIPLE
