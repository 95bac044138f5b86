"""One frame of CSM for all running rows by fused kernels: what the CUDA graph is made of.

In: slots of rows whose inputs, clocks and draws lie on the device. Out: their codes, and the rows
moved on by a frame. It computes what `CSM.next_frame` does; shapes depend on the number of rows
alone, nothing is read back, and no host value changes what it does, so it can be captured.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from csm_trio.model.attention import KVCache
from csm_trio.model.config import LlamaConfig
from csm_trio.model.csm import CSM, RowState
from csm_trio.model.kernels.attention import Cache, Clock, attend, splits_for
from csm_trio.model.kernels.depth_attention import Scratch, depth_attention
from csm_trio.model.kernels.linear import Norm, linear
from csm_trio.model.kernels.sampling import SamplingTensors, draw
from csm_trio.model.kernels.workspace import Workspace
from csm_trio.model.llama import LlamaLayer

_EVERYTHING = 1 << 30  # a window that hides no key
_MOST_SPLITS = 8


class FusedFrame:
    """The weights of a `CSM` with what a frame needs beside them; at most `rows` rows a frame."""

    def __init__(
        self, model: CSM, kv: KVCache, state: RowState, *, rows: int, space: Workspace
    ) -> None:
        self._model, self._kv, self._state, self._space = model, kv, state, space
        codebooks, depth = model.config.codebooks, model.config.depth
        # The last hidden state feeds two products: codebook 0's logits, the depth's first input.
        self._after_backbone = torch.cat((model.first_head, model.depth_projector))
        shape = (depth.layers, rows, depth.kv_heads, codebooks, depth.head_dim)
        self._depth_keys = state.inputs.new_zeros(shape)
        self._depth_values = state.inputs.new_zeros(shape)

    def next_codes(self, slots: Tensor) -> Tensor:
        """Make one frame a row and move the rows on: slots int64 [rows] -> codes [rows, codebooks].

        Rows that share a slot are padding at the dummy, whose clock stands still.
        """
        state, model = self._state, self._model
        sampling = SamplingTensors(slots, state.temperature, state.top_k, state.seeds, state.frames)
        codes = torch.empty(
            len(slots), model.config.codebooks, dtype=torch.int64, device=slots.device
        )
        hidden = self._backbone(slots)
        self._decode_depth(hidden, sampling, codes)
        state.inputs.index_copy_(0, slots, self._embed(codes))
        for clock in (state.positions, state.frames):
            clock.index_add_(0, slots, torch.ones_like(slots))
            clock[-1:].zero_()
        return codes

    def _embed(self, codes: Tensor) -> Tensor:
        rows = codes + self._model.codebook_offsets
        return F.embedding_bag(rows, self._model.audio_embedding, mode="sum")

    def _backbone(self, slots: Tensor) -> Tensor:
        """Run the backbone over the rows' inputs; return [rows, hidden] before the final norm."""
        model, kv = self._model, self._kv
        starts = self._state.positions.index_select(0, slots)
        cos = model.rotary.cos.index_select(0, starts).unsqueeze(1)
        sin = model.rotary.sin.index_select(0, starts).unsqueeze(1)
        clock = Clock(slots, starts, cos, sin)
        x = self._state.inputs.index_select(0, slots)
        config = model.config.backbone
        programs = len(slots) * config.kv_heads
        splits = splits_for(programs, most=_MOST_SPLITS)
        for index, layer in enumerate(model.backbone.blocks):
            keys, values = kv.keys[index], kv.values[index]
            cache = Cache(keys.transpose(1, 2), values.transpose(1, 2), _EVERYTHING)

            def mix(qkv: Tensor, cache: Cache = cache) -> Tensor:
                mixed = attend(
                    qkv.unsqueeze(1), cache, clock, self._space, heads=config.heads, splits=splits
                )
                return mixed.squeeze(1)

            x = self._layer(layer, x, config, mix)
        return x

    def _decode_depth(self, x: Tensor, sampling: SamplingTensors, codes: Tensor) -> None:
        """Draw codebook 0 from the backbone's state, then let the depth decoder add the others."""
        model, space, rows = self._model, self._space, codes.shape[0]
        ids, vocabulary = model.config.codec.codebook_size, model.config.audio_vocab_size
        norm = Norm(model.backbone.norm, model.config.backbone.norm_eps)
        joined = linear(x, self._after_backbone, space, norm=norm)
        width = joined.shape[1] - ids
        # Positions 0 and 1 go through the depth decoder together, position 0's rows first.
        x = joined.new_empty(2 * rows, width)
        x[:rows] = joined[:, ids:]
        logits = joined[:, :ids].contiguous()
        norm = Norm(model.depth.norm, model.config.depth.norm_eps)
        for codebook in range(model.config.codebooks):
            if codebook:
                x = self._depth(x, codebook)[-rows:]
                logits = linear(x, model.depth_heads[codebook - 1], space, norm=norm)
            following = codebook + 1 < model.config.codebooks
            if codebook:
                x = x.new_empty(rows, width)
            draw(
                logits, codebook, sampling, codes, space,
                table=model.depth_embedding, table_start=codebook * vocabulary,
                embedded=x[-rows:] if following else None,
            )  # fmt: skip

    def _depth(self, x: Tensor, codebook: int) -> Tensor:
        """Run the depth decoder at position `codebook`; before it at 0 too, as the first call.

        x: [rows, width]; as the first call [2 * rows, width], position 0's rows first.
        """
        model, config = self._model, self._model.config.depth
        cos, sin = model.depth_cos[codebook, 0], model.depth_sin[codebook, 0]
        for index, layer in enumerate(model.depth.blocks):
            scratch = Scratch(self._depth_keys[index], self._depth_values[index], cos, sin)

            def mix(qkv: Tensor, scratch: Scratch = scratch) -> Tensor:
                return depth_attention(qkv, codebook, scratch, self._space, heads=config.heads)

            x = self._layer(layer, x, config, mix)
        return x

    def _layer(
        self,
        layer: LlamaLayer,
        x: Tensor,
        config: LlamaConfig,
        mix: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Run one block over x [rows, width]; `mix` attends from its q, k and v."""
        space = self._space
        qkv = linear(x, layer.qkv, space, norm=Norm(layer.input_norm, config.norm_eps))
        x = linear(mix(qkv), layer.out, space, residual=x)
        norm = Norm(layer.mlp_norm, config.norm_eps)
        active = linear(x, layer.gate_up, space, norm=norm, gated=True)
        return linear(active, layer.down, space, residual=x)
