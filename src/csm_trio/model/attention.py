"""Keys and values of every slot, and the three ways of attending over them.

Rows are joined and left by index: a slot's keys never move. Nothing here knows who may run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from csm_trio.model.config import LlamaConfig
from csm_trio.model.llama import Attend

_NOT_CUDNN = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""cuDNN's kernels, which torch prefers on Hopper, fail there on some masks and lengths
(sglang-omni#800, NVIDIA-NeMo/Automodel#2659)."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values of positions that many prompts begin with, computed once.

    keys, values: [layers, kv_heads, positions, head_dim].
    """

    keys: Tensor
    values: Tensor

    @property
    def positions(self) -> int:
        return self.keys.shape[2]


@dataclass(frozen=True, slots=True)
class Span:
    """One running row of a step: its place in the batch, its slot, and the position it writes."""

    row: int
    slot: int
    position: int


def _grouped(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend from one time step without copying keys for each query head.

    queries [batch, 1, heads, dim]; keys, values [batch, kv_heads, past, dim]. The query heads
    that share a key head become its query "times": no mask is needed, everything is visible.
    """
    batch, _, heads, dim = queries.shape
    groups = queries.view(batch, keys.shape[1], heads // keys.shape[1], dim)
    mixed = F.scaled_dot_product_attention(groups, keys, values)
    return mixed.view(batch, 1, heads, dim)


class KVCache:
    """The backbone's cache: [layers, slots, kv_heads, max_positions, head_dim] twice."""

    def __init__(
        self, config: LlamaConfig, slots: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (config.layers, slots, config.kv_heads, config.max_positions, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)

    def prefill(self, slot: int, start: int) -> Attend:
        """Attend causally over one slot's new positions from `start` on, and what precedes them.

        For a batch of one: queries [1, time, heads, dim].
        """

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            end = start + queries.shape[1]
            self.keys[layer, slot, :, start:end] = keys[0].transpose(0, 1)
            self.values[layer, slot, :, start:end] = values[0].transpose(0, 1)
            visible = None
            if start:
                visible = torch.ones(end - start, end, dtype=torch.bool, device=queries.device)
                visible = visible.tril(diagonal=start)
            with sdpa_kernel(_NOT_CUDNN):
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
        """Attend over several slots' new positions at once, and over what precedes them there.

        slots: int64 [batch]; positions: int64 [batch, time]. A slot's whole row is read, masked
        by position, so that shapes do not depend on how much precedes. Rows that are shorter
        than the batch is wide write keys beyond their end, as in `prefill_rows`.
        """
        everywhere = torch.arange(self.keys.shape[3], device=slots.device)
        visible = everywhere <= positions[:, None, :, None]  # [batch, 1, time, max_positions]

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            rows = slots[:, None]
            self.keys[layer][rows, :, positions] = keys
            self.values[layer][rows, :, positions] = values
            shared = queries.shape[2] // keys.shape[2]
            with sdpa_kernel(_NOT_CUDNN):
                mixed = F.scaled_dot_product_attention(
                    queries.transpose(1, 2),
                    self.keys[layer][slots].repeat_interleave(shared, dim=1),
                    self.values[layer][slots].repeat_interleave(shared, dim=1),
                    attn_mask=visible,
                )
            return mixed.transpose(1, 2)

        return attend

    def copy_out(self, slot: int, positions: int) -> Prefix:
        """Copy a slot's first positions for others to begin with."""
        kept = self.keys[:, slot, :, :positions], self.values[:, slot, :, :positions]
        return Prefix(*(part.clone() for part in kept))

    def copy_in(self, slot: int, prefix: Prefix) -> None:
        """Begin a slot with what was computed before."""
        self.keys[:, slot, :, : prefix.positions] = prefix.keys
        self.values[:, slot, :, : prefix.positions] = prefix.values

    def prefill_rows(self, slots: Tensor) -> Attend:
        """Attend causally over the first positions of several slots at once.

        slots: int64 [batch]. Rows that are shorter than the batch is wide write keys beyond
        their end, which their own steps overwrite before anyone looks.
        """

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            time = queries.shape[1]
            keys, values = keys.transpose(1, 2), values.transpose(1, 2)
            self.keys[layer][slots, :, :time] = keys
            self.values[layer][slots, :, :time] = values
            # Repeated, they suit every fused kernel; the scores of a long prompt stay on the chip.
            shared = queries.shape[2] // keys.shape[1]
            mixed = F.scaled_dot_product_attention(
                queries.transpose(1, 2),
                keys.repeat_interleave(shared, dim=1),
                values.repeat_interleave(shared, dim=1),
                is_causal=True,
            )
            return mixed.transpose(1, 2)

        return attend

    def step_by_row(self, spans: Sequence[Span]) -> Attend:
        """Attend one new position a running row, each over exactly its own past.

        Rows of the batch that no span names are padding: they get zeros. A row's result is
        the same, to the bit, whoever else is in the batch.
        """

        # All layers' views of each row's past; what `attend` writes shows in them.
        pasts = [
            (self.keys[:, span.slot, None, :, :end], self.values[:, span.slot, None, :, :end])
            for span in spans
            for end in (span.position + 1,)
        ]
        rows = torch.tensor([span.row for span in spans])
        slots = torch.tensor([span.slot for span in spans])
        positions = torch.tensor([span.position for span in spans])

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            self.keys[layer][slots, :, positions] = keys[rows, 0]
            self.values[layer][slots, :, positions] = values[rows, 0]
            mixed = torch.zeros_like(queries)
            for span, (past_keys, past_values) in zip(spans, pasts, strict=True):
                mixed[span.row] = _grouped(
                    queries[span.row, None], past_keys[layer], past_values[layer]
                )[0]
            return mixed

        return attend

    def step_masked(self, rows: Tensor, positions: Tensor, longest: int) -> Attend:
        """Attend one new position a row, all rows at once, padded to the `longest` past.

        rows, positions: int64 [batch]; padding rows may share one slot. For devices on which
        a launch costs more than the padding.
        """
        visible = torch.arange(longest, device=rows.device) <= positions[:, None, None, None]

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            self.keys[layer][rows, :, positions] = keys[:, 0]
            self.values[layer][rows, :, positions] = values[:, 0]
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
    """The depth decoder's scratch: all rows stand at the same position; it lives one frame."""

    def __init__(self, config: LlamaConfig, batch: int, positions: int, like: Tensor) -> None:
        shape = (config.layers, batch, config.kv_heads, positions, config.head_dim)
        self._keys = like.new_empty(shape)
        self._values = like.new_empty(shape)
        self.start = 0
        """The position that the next call's first query stands at."""

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend causally; more than one query only as the very first call of a frame."""
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
