"""The KV caches of backbone and depth decoder, and attention over them in torch operations.

In: queries, keys and values of new positions. Out: attention outputs. Rows join and leave a batch
by slot index: a slot's keys never move. It must not know which slots are scheduled to run.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from csm_trio.model.config import LlamaConfig
from csm_trio.model.llama import Attend

_NOT_CUDNN = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Attention backends without cuDNN: torch prefers cuDNN on Hopper, where it fails on some masks
and lengths (sglang-omni#800, NVIDIA-NeMo/Automodel#2659)."""


def without_cudnn() -> AbstractContextManager[None]:
    """Return a context in which attention takes no backend of cuDNN."""
    return sdpa_kernel(_NOT_CUDNN)


@dataclass(frozen=True, slots=True)
class AlignmentHead:
    """A query head, in a layer of the backbone, whose attention follows the text."""

    layer: int
    head: int


Watch = Callable[[int, Tensor], None]
"""Called with each layer and its queries [batch, heads, dim], after the layer's keys are cached."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """Entry of the prefix cache: keys and values of positions that many prompts begin with.

    keys, values: [layers, kv_heads, positions, head_dim].
    """

    keys: Tensor
    values: Tensor

    @property
    def positions(self) -> int:
        return self.keys.shape[2]

    @property
    def n_bytes(self) -> int:
        """The memory that it takes."""
        return self.keys.nbytes + self.values.nbytes


@dataclass(frozen=True, slots=True)
class Span:
    """One running row of a step: its slot, and the position it writes."""

    slot: int
    position: int


@dataclass(frozen=True, slots=True)
class RowPast:
    """Views of one row's keys and values in the KV cache, up to the position it writes.

    pasts: the layers' keys, then the layers' values, [1, kv_heads, positions, dim]. newest: of each
    layer the last of these positions, [2, kv_heads, dim]: what is written there appears in `pasts`.
    """

    pasts: Sequence[Tensor]
    newest: Sequence[Tensor]

    def keys_values(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values."""
        return self.pasts[layer], self.pasts[len(self.newest) + layer]


def _grouped(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Grouped-query attention of one time step, without copying keys for each query head.

    queries [batch, 1, heads, dim]; keys, values [batch, kv_heads, past, dim]. The query heads
    that share a key head take the place of its query times; every key is visible, without a mask.
    """
    batch, _, heads, dim = queries.shape
    groups = queries.view(batch, keys.shape[1], heads // keys.shape[1], dim)
    mixed = F.scaled_dot_product_attention(groups, keys, values)
    return mixed.view(batch, 1, heads, dim)


class KVCache:
    """KV cache of the backbone: keys, values [layers, slots, kv_heads, max_positions, head_dim]."""

    def __init__(
        self, config: LlamaConfig, slots: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (config.layers, slots, config.kv_heads, config.max_positions, config.head_dim)
        self._keys_values = torch.zeros(2, *shape, device=device, dtype=dtype)

    @property
    def keys(self) -> Tensor:
        return self._keys_values[0]

    @property
    def values(self) -> Tensor:
        return self._keys_values[1]

    def prefill(self, slot: int, start: int) -> Attend:
        """Return causal attention of one slot's new positions from `start` on (chunked prefill).

        For a batch of one: queries [1, time, heads, dim]. Earlier positions come from the cache.
        """

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            end = start + queries.shape[1]
            self.keys[layer, slot, :, start:end] = keys[0].transpose(0, 1)
            self.values[layer, slot, :, start:end] = values[0].transpose(0, 1)
            visible = None
            if start:
                visible = torch.ones(end - start, end, dtype=torch.bool, device=queries.device)
                visible = visible.tril(diagonal=start)
            with without_cudnn():
                mixed = F.scaled_dot_product_attention(
                    queries.transpose(1, 2),
                    self.keys[layer, slot, None, :, :end],
                    self.values[layer, slot, None, :, :end],
                    attn_mask=visible,
                    is_causal=visible is None,
                    enable_gqa=True,
                )
            return mixed.transpose(1, 2)

        return attend

    def prefill_on(self, slots: Tensor, positions: Tensor) -> Attend:
        """Return causal attention of several slots' new positions and all earlier positions.

        slots: int64 [batch]; positions: int64 [batch, time]. All positions of a slot are read and
        masked, so that shapes do not depend on the prompt's length. Rows shorter than the batch
        write keys beyond their end, as in `prefill_rows`.
        """
        cached = torch.arange(self.keys.shape[3], device=slots.device)
        visible = cached <= positions[:, None, :, None]  # [batch, 1, time, max_positions]

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            rows = slots[:, None]
            self.keys[layer][rows, :, positions] = keys
            self.values[layer][rows, :, positions] = values
            groups = queries.shape[2] // keys.shape[2]
            with without_cudnn():
                mixed = F.scaled_dot_product_attention(
                    queries.transpose(1, 2),
                    self.keys[layer][slots].repeat_interleave(groups, dim=1),
                    self.values[layer][slots].repeat_interleave(groups, dim=1),
                    attn_mask=visible,
                )
            return mixed.transpose(1, 2)

        return attend

    def copy_out(self, slot: int, positions: int) -> Prefix:
        """Return a copy of a slot's first `positions` as an entry of the prefix cache."""
        kept = self.keys[:, slot, :, :positions], self.values[:, slot, :, :positions]
        return Prefix(*(part.clone() for part in kept))

    def copy_in(self, slot: int, prefix: Prefix) -> None:
        """Write a cached prefix to a slot's first positions."""
        self.keys[:, slot, :, : prefix.positions] = prefix.keys
        self.values[:, slot, :, : prefix.positions] = prefix.values

    def prefill_rows(self, slots: Tensor) -> Attend:
        """Return causal attention of several slots' first positions, from 0 on.

        slots: int64 [batch]. Rows shorter than the batch write keys beyond their end, which
        their own steps overwrite before they read them.
        """

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            time = queries.shape[1]
            keys, values = keys.transpose(1, 2), values.transpose(1, 2)
            self.keys[layer][slots, :, :time] = keys
            self.values[layer][slots, :, :time] = values
            # With repeated keys every fused kernel applies, and no scores are written to memory.
            groups = queries.shape[2] // keys.shape[1]
            mixed = F.scaled_dot_product_attention(
                queries.transpose(1, 2),
                keys.repeat_interleave(groups, dim=1),
                values.repeat_interleave(groups, dim=1),
                is_causal=True,
            )
            return mixed.transpose(1, 2)

        return attend

    def step_by_row(self, spans: Sequence[Span]) -> Attend:
        """Attend one new position a running row, each over exactly its own past.

        Rows of the batch behind those of `spans` are padding: they get zeros. A row's result is
        the same, to the bit, whatever the other rows of the batch.
        """

        pasts = [self.row_past(span) for span in spans]

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            mixed = []
            for row, past in enumerate(pasts):
                new_key, new_value = past.newest[layer].unbind(0)
                new_key.copy_(keys[row, 0])
                new_value.copy_(values[row, 0])
                mixed.append(_grouped(queries[row : row + 1], *past.keys_values(layer)))
            if len(queries) > len(pasts):
                mixed.append(torch.zeros_like(queries[len(pasts) :]))
            return torch.cat(mixed)

        return attend

    def row_past(self, span: Span) -> RowPast:
        """View a row's past up to its new position, in all layers."""
        row = self._keys_values.narrow(2, span.slot, 1)  # [2, layers, 1, kv_heads, positions, dim]
        past = row.narrow(4, 0, span.position + 1).flatten(0, 1)
        return RowPast(past.unbind(0), row[:, :, 0, :, span.position].unbind(1))

    def step_masked(self, rows: Tensor, positions: Tensor, longest: int) -> Attend:
        """Return attention of one new position per row, all rows padded to the `longest` past.

        rows (slots), positions: int64 [batch]; padding rows may share one slot. For devices on
        which a kernel launch costs more than the padding.
        """
        visible = torch.arange(longest, device=rows.device) <= positions[:, None, None, None]

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            self.keys[layer][rows, :, positions] = keys[:, 0]
            self.values[layer][rows, :, positions] = values[:, 0]
            with without_cudnn():
                mixed = F.scaled_dot_product_attention(
                    queries.transpose(1, 2),
                    self.keys[layer][rows, :, :longest],
                    self.values[layer][rows, :, :longest],
                    attn_mask=visible,
                    enable_gqa=True,
                )
            return mixed.transpose(1, 2)

        return attend


class DepthKVCache:
    """KV cache of the depth decoder for one frame; all rows are at the same position."""

    def __init__(self, config: LlamaConfig, batch: int, positions: int, like: Tensor) -> None:
        shape = (config.layers, batch, config.kv_heads, positions, config.head_dim)
        self._keys = like.new_empty(shape)
        self._values = like.new_empty(shape)
        self.start = 0
        """Position of the first query of the next call."""

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend causally, as an `Attend`; only a frame's first call may have several queries."""
        start, end = self.start, self.start + queries.shape[1]
        past_keys, past_values = self._keys[layer], self._values[layer]
        past_keys[:, :, start:end] = keys.transpose(1, 2)
        past_values[:, :, start:end] = values.transpose(1, 2)
        if queries.shape[1] == 1:
            return _grouped(queries, past_keys[:, :, :end], past_values[:, :, :end])
        mixed = F.scaled_dot_product_attention(
            queries.transpose(1, 2),
            past_keys[:, :, :end],
            past_values[:, :, :end],
            is_causal=True,
            enable_gqa=True,
        )
        return mixed.transpose(1, 2)
