"""One step of CSM for all running rows by fused kernels, for capture in a CUDA graph.

In: slots, whose inputs, positions and sampling parameters are on the device. Out: their codes;
the slots' state advances by a frame. It computes the same as `CSM.next_frame`. It can be captured:
shapes depend on the number of rows alone, and it neither reads from nor depends on the host.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from csm_trio.model.attention import KVCache
from csm_trio.model.config import LlamaConfig
from csm_trio.model.csm import CSM, RowState
from csm_trio.model.kernels.alignment import AttendedTokens, read_alignment_head
from csm_trio.model.kernels.attention import Cache, RowPositions, attend, splits_for
from csm_trio.model.kernels.depth_attention import Scratch, depth_attention
from csm_trio.model.kernels.linear import Norm, linear
from csm_trio.model.kernels.sampling import SamplingTensors, sample
from csm_trio.model.kernels.workspace import Workspace
from csm_trio.model.llama import LlamaLayer

_UNLIMITED_WINDOW = 1 << 30  # in positions; hides no key
_MAX_SPLITS = 8  # parts of a row's past that are attended to in parallel


class FusedFrame:
    """A `CSM` with the buffers of its fused step, for at most `rows` rows."""

    def __init__(
        self, model: CSM, kv: KVCache, state: RowState, *, rows: int, workspace: Workspace
    ) -> None:
        self._model, self._kv, self._state, self._workspace = model, kv, state, workspace
        codebooks, depth = model.config.codebooks, model.config.depth
        # The last hidden state feeds codebook 0's head and the depth decoder: one product for both.
        self._after_backbone = torch.cat((model.first_head, model.depth_projector))
        shape = (depth.layers, rows, depth.kv_heads, codebooks, depth.head_dim)
        self._depth_keys = state.inputs.new_zeros(shape)
        self._depth_values = state.inputs.new_zeros(shape)

    def next_codes(
        self, slots: Tensor, failed: Tensor, attended: AttendedTokens | None = None
    ) -> Tensor:
        """Generate one frame per row: slots int64 [rows] -> codes int64 [rows, codebooks].

        Only padding rows share a slot, the dummy, whose position stays 0. Writes 1 to `failed`
        int16 [rows] for a row with NaN or infinity in its logits, whose codes mean nothing, else 0.
        With `attended` the alignment head is read, too.
        """
        state, model = self._state, self._model
        sampling = SamplingTensors(
            slots, failed, state.temperature, state.top_k, state.seeds, state.frames
        )
        codes = torch.empty(
            len(slots), model.config.codebooks, dtype=torch.int64, device=slots.device
        )
        hidden = self._backbone(slots, attended)
        self._decode_depth(hidden, sampling, codes)
        state.inputs.index_copy_(0, slots, self._embed(codes))
        for counter in (state.positions, state.frames):
            counter.index_add_(0, slots, torch.ones_like(slots))
            counter[-1:].zero_()
        return codes

    def _embed(self, codes: Tensor) -> Tensor:
        rows = codes + self._model.codebook_offsets
        return F.embedding_bag(rows, self._model.audio_embedding, mode="sum")

    def _backbone(self, slots: Tensor, attended: AttendedTokens | None) -> Tensor:
        """Run the backbone over the rows' inputs; return [rows, hidden] before the final norm."""
        model, kv = self._model, self._kv
        starts = self._state.positions.index_select(0, slots)
        cos = model.rotary.cos.index_select(0, starts).unsqueeze(1)
        sin = model.rotary.sin.index_select(0, starts).unsqueeze(1)
        positions = RowPositions(slots, starts, cos, sin)
        x = self._state.inputs.index_select(0, slots)
        config = model.config.backbone
        programs = len(slots) * config.kv_heads
        splits = splits_for(programs, max_splits=_MAX_SPLITS)
        for index, layer in enumerate(model.backbone.blocks):
            keys, values = kv.keys[index], kv.values[index]
            cache = Cache(keys.transpose(1, 2), values.transpose(1, 2), _UNLIMITED_WINDOW)

            def mix(qkv: Tensor, index: int = index, cache: Cache = cache) -> Tensor:
                mixed = attend(
                    qkv.unsqueeze(1),
                    cache,
                    positions,
                    self._workspace,
                    heads=config.heads,
                    splits=splits,
                )
                if attended is not None and attended.head.layer == index:
                    read_alignment_head(
                        qkv, kv.keys[index], self._state.text_ranges, positions, attended,
                        self._workspace, heads=config.heads,
                    )  # fmt: skip
                return mixed.squeeze(1)

            x = self._layer(layer, x, config, mix)
        return x

    def _decode_depth(self, x: Tensor, sampling: SamplingTensors, codes: Tensor) -> None:
        """Sample codebook 0 from the backbone's output x [rows, hidden], then the others.

        Writes to codes [rows, codebooks].
        """
        model, workspace, rows = self._model, self._workspace, codes.shape[0]
        ids, vocabulary = model.config.codec.codebook_size, model.config.audio_vocab_size
        norm = Norm(model.backbone.norm, model.config.backbone.norm_eps)
        joined = linear(x, self._after_backbone, workspace, norm=norm)
        width = joined.shape[1] - ids
        # Positions 0 and 1 go through the depth decoder together, position 0's rows first.
        x = joined.new_empty(2 * rows, width)
        x[:rows] = joined[:, ids:]
        logits = joined[:, :ids].contiguous()
        norm = Norm(model.depth.norm, model.config.depth.norm_eps)
        for codebook in range(model.config.codebooks):
            if codebook:
                x = self._depth(x, codebook)[-rows:]
                logits = linear(x, model.depth_heads[codebook - 1], workspace, norm=norm)
            following = codebook + 1 < model.config.codebooks
            if codebook:
                x = x.new_empty(rows, width)
            sample(
                logits, codebook, sampling, codes, workspace,
                table=model.depth_embedding, table_start=codebook * vocabulary,
                embedded=x[-rows:] if following else None,
            )  # fmt: skip

    def _depth(self, x: Tensor, codebook: int) -> Tensor:
        """Run the depth decoder at position `codebook`, the first call (1) at positions 0 and 1.

        x: [rows, width]; in the first call [2 * rows, width], position 0's rows first.
        """
        model, config = self._model, self._model.config.depth
        cos, sin = model.depth_cos[codebook, 0], model.depth_sin[codebook, 0]
        for index, layer in enumerate(model.depth.blocks):
            scratch = Scratch(self._depth_keys[index], self._depth_values[index], cos, sin)

            def mix(qkv: Tensor, scratch: Scratch = scratch) -> Tensor:
                return depth_attention(qkv, codebook, scratch, self._workspace, heads=config.heads)

            x = self._layer(layer, x, config, mix)
        return x

    def _layer(
        self,
        layer: LlamaLayer,
        x: Tensor,
        config: LlamaConfig,
        mix: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Run one block over x [rows, width]; `mix` maps its qkv to attention outputs."""
        workspace = self._workspace
        qkv = linear(x, layer.qkv, workspace, norm=Norm(layer.input_norm, config.norm_eps))
        x = linear(mix(qkv), layer.out, workspace, residual=x)
        norm = Norm(layer.mlp_norm, config.norm_eps)
        active = linear(x, layer.gate_up, workspace, norm=norm, gated=True)
        return linear(active, layer.down, workspace, residual=x)
