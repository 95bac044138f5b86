"""One step of CSM for all running rows on a CPU: the operations of `CSM.next_frame`, fewer of them.

In: the rows' inputs and positions. Out: their codes. At the embedded voice's sizes an operation
takes longer to start than to compute: views and scratch are made once for a number of rows,
temporary values are overwritten in place. Codes equal those of `CSM.next_frame`, and so do all
values on the way, to the bit. For float32 activations; matrices may be of any kind.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from csm_trio.model.attention import RowPast, Watch
from csm_trio.model.csm import CSM, FrameSampling
from csm_trio.model.linear import Product, product_by
from csm_trio.model.llama import Llama, LlamaLayer
from csm_trio.model.rotation import Angles, Rotation

_Mix = Callable[[int], Tensor]
"""(layer) -> attention outputs [tokens, heads * dim] of a stack's queries, keys and values; it also
writes keys and values to a cache."""


_FIRST_LAYER_BYTES = 32 << 20
"""Maximum size of a depth decoder's first layer that is computed for every code in advance."""
_CHECKED_CODES = 8


class DepthEmbeddings:
    """What the depth decoder reads of a code: its embedding and, if small, more of the first layer.

    A code of codebook i is always at position i + 1: its queries, keys and values in the first
    layer depend on it alone. For a small model they are computed once for all codes.
    """

    def __init__(self, model: CSM, rows: int) -> None:
        """`rows`: a number of rows whose values those of every step equal."""
        vocabulary, depth = model.config.audio_vocab_size, model.config.depth
        tables = model.depth_embedding.view(-1, vocabulary, depth.hidden_size)
        self._tables: Sequence[Tensor] = tables.unbind(0)
        self._heads: Mapping[int, Tensor] = {}
        n_heads = (depth.heads + 2 * depth.kv_heads) * depth.head_dim
        if 4 * len(model.depth_embedding) * n_heads <= _FIRST_LAYER_BYTES:
            self._heads = self._first_layer(model, vocabulary, rows)

    def embed(self, codebook: int, codes: Tensor) -> Tensor:
        """Return the embeddings [rows, width] of codes [rows]."""
        return self._tables[codebook].index_select(0, codes).float()

    def heads(self, codebook: int) -> Tensor | None:
        """Return rotated queries and keys, and values, of all codes: [codes, heads * dim]."""
        return self._heads.get(codebook)

    def _first_layer(self, model: CSM, vocabulary: int, rows: int) -> Mapping[int, Tensor]:
        """Compute all codes at once, by codebook; return {} where a step of `rows` differs.

        Codebook 0 is left out: its position is computed together with position 0.
        """
        many, step = _Stack(model.depth, vocabulary, sums=[]), _Stack(model.depth, rows, sums=[])
        made = {}
        for codebook in range(1, model.config.codebooks - 1):
            table, position = self._tables[codebook], slice(codebook + 1, codebook + 2)
            angles = model.depth_cos[position], model.depth_sin[position]
            heads = many.first_heads(table.float(), many.angles(*angles)).clone()
            step_angles = step.angles(*angles)
            for code in range(0, vocabulary, -(-vocabulary // _CHECKED_CODES)):
                stepped = step.first_heads(table[code].float().repeat(rows, 1), step_angles)
                if not torch.equal(stepped, heads[code].expand(rows, -1)):
                    return {}
            made[codebook] = heads
        return made


class CpuFrame:
    """A `CSM` with the scratch of its step, for exactly `rows` rows."""

    def __init__(self, model: CSM, rows: int, embeddings: DepthEmbeddings) -> None:
        self._model, self._embeddings = model, embeddings
        self._sums: list[Tensor] = []
        self._backbone = _Stack(model.backbone, rows, sums=self._sums)
        self._depth = _Stack(model.depth, rows, sums=self._sums)
        self._depth_pair = _Stack(model.depth, rows, times=2, sums=self._sums)
        cos, sin = model.depth_cos, model.depth_sin  # [codebooks, 1, head_dim]
        pair = self._depth_pair.angles(cos[:2].repeat(rows, 1, 1), sin[:2].repeat(rows, 1, 1))
        angles = [pair] + [
            self._depth.angles(cos[at : at + 1], sin[at : at + 1]) for at in range(2, len(cos))
        ]
        mixes = _depth_mixes(self._depth_pair, self._depth, model.config.codebooks)
        heads = map(product_by, model.depth_heads)
        self._heads = list(zip(heads, angles, mixes, strict=True))
        self._first_head = product_by(model.first_head)
        self._project = product_by(model.depth_projector)

    def next_codes(
        self,
        inputs: Tensor,
        positions: Tensor,
        sampling: FrameSampling,
        pasts: Sequence[RowPast],
        watch: Watch | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Generate one frame per row, as `CSM.next_frame` does with `KVCache.step_by_row`.

        Rows behind those of `pasts` are padding.
        """
        self._sums.clear()
        angles = self._backbone.angles(*self._model.rotary.at(positions))
        mix = partial(_mix_by_row, stack=self._backbone, pasts=pasts, watch=watch)
        hidden = self._backbone.run(inputs, angles, mix)
        logits = [self._first_head(hidden)]
        codes = self._decode_depth(hidden, logits, sampling)
        # NaN or infinite where a value is. Torch's attention on a CPU makes zeros of NaN where a
        # query has fewer than 16 keys, all its scores NaN: the logits do not tell.
        sums = torch.stack((*self._sums, *torch.stack(logits).sum(dim=2, dtype=torch.float32)))
        return codes, sums.isfinite().all(dim=0)

    def _decode_depth(
        self, hidden: Tensor, logits: list[Tensor], sampling: FrameSampling
    ) -> Tensor:
        """Sample all codebooks; `logits` holds those of codebook 0, the others' are appended."""
        model = self._model
        codes = [model.sample(logits[0], 0, sampling)]
        projected = self._project(hidden)
        for codebook, (head, angles, mix) in enumerate(self._heads, 1):
            x = self._embeddings.embed(codebook - 1, codes[-1])
            if codebook == 1:
                x = torch.stack((projected, x), dim=1).flatten(0, 1)
                x = self._depth_pair.run(x, angles, mix)[1::2]
            else:
                known = self._embeddings.heads(codebook - 1)
                if known is None:
                    self._depth.first_heads(x, angles)
                else:
                    self._depth.take_heads(known, codes[-1])
                x = self._depth.run_on(x, angles, mix)
            logits.append(head(x))
            codes.append(model.sample(logits[-1], codebook, sampling))
        return torch.stack(codes, dim=1)


class _Layer(NamedTuple):
    """The gains and products of a layer."""

    input_norm: Tensor
    qkv: Product
    out: Product
    mlp_norm: Tensor
    gate_up: Product
    down: Product

    @classmethod
    def of(cls, layer: LlamaLayer) -> Self:
        qkv, out, gate_up, down = map(product_by, (layer.qkv, layer.out, layer.gate_up, layer.down))
        return cls(layer.input_norm, qkv, out, layer.mlp_norm, gate_up, down)


class _Stack:
    """A `Llama` over a fixed number of tokens: `times` positions of each row.

    It appends the sums of each layer's queries, keys and values to `sums`, [rows].
    """

    def __init__(self, llama: Llama, rows: int, *, sums: list[Tensor], times: int = 1) -> None:
        config, tokens = llama.config, rows * times
        self._layers = [_Layer.of(layer) for layer in llama.blocks]
        self._norm = llama.norm
        self.width = config.hidden_size
        self._eps, self._width = torch.tensor(config.norm_eps), torch.tensor(float(self.width))
        self._square, self._normed = torch.empty(2, tokens, self.width).unbind(0)
        self._scale = torch.empty(tokens, 1)
        self.config, self.tokens = config, tokens
        self._rotation = Rotation(
            tokens, config.heads + config.kv_heads, values=config.kv_heads, dim=config.head_dim
        )
        heads = self._rotation.rotated
        self.queries = heads[:, : config.heads]
        self.keys_values = heads[:, config.heads :].view(
            tokens, 2, config.kv_heads, config.head_dim
        )
        # Query heads that share a key head are its query times.
        grouped = self.queries.view(tokens, config.kv_heads, -1, config.head_dim)
        self.query_groups: Sequence[Tensor] = torch.split(grouped, 1)
        self.each_keys_values: Sequence[Tensor] = self.keys_values.unbind(0)
        self.angles = self._rotation.angles
        self._sums, self._heads_by_row = sums, self._rotation.flat.view(rows, -1)

    def run(self, x: Tensor, angles: Angles, mix: _Mix) -> Tensor:
        """Map embeddings [tokens, width] to hidden states, as `Llama.forward` does.

        The result is scratch, which the next call overwrites.
        """
        self.first_heads(x, angles)
        return self.run_on(x, angles, mix)

    def first_heads(self, x: Tensor, angles: Angles) -> Tensor:
        """Compute the first layer's rotated queries, keys and values [tokens, heads * dim]."""
        input_norm, qkv, *_ = self._layers[0]
        self._rotation.rotate(qkv(self._normalized(x, input_norm)), angles)
        return self._rotation.flat

    def take_heads(self, known: Tensor, codes: Tensor) -> None:
        """Take them from those `known` of all codes [codes, heads * dim]."""
        torch.index_select(known, 0, codes, out=self._rotation.flat)

    def run_on(self, x: Tensor, angles: Angles, mix: _Mix) -> Tensor:
        """Run behind the first layer's queries, keys and values."""
        for index, (input_norm, qkv, out, mlp_norm, gate_up, down) in enumerate(self._layers):
            if index:
                self._rotation.rotate(qkv(self._normalized(x, input_norm)), angles)
            self._sums.append(self._heads_by_row.sum(1))
            x = out(mix(index)).add_(x)
            gate, up = gate_up(self._normalized(x, mlp_norm)).chunk(2, dim=1)
            x = down(F.silu(gate).mul_(up)).add_(x)
        return self._normalized(x, self._norm)

    def _normalized(self, x: Tensor, gain: Tensor) -> Tensor:
        """Apply RMSNorm by the operations of `F.rms_norm` on a CPU; the result is scratch."""
        torch.mul(x, x, out=self._square)
        torch.sum(self._square, 1, keepdim=True, out=self._scale)
        torch.addcdiv(self._eps, self._scale, self._width, out=self._scale)
        torch.mul(x, self._scale.rsqrt_(), out=self._normed)
        return self._normed.mul_(gain)


def _mix_by_row(
    index: int, *, stack: _Stack, pasts: Sequence[RowPast], watch: Watch | None
) -> Tensor:
    """Attend one new position per row of the backbone's KV cache, each over exactly its past."""
    mixed = []
    for row, past in enumerate(pasts):
        past.newest[index].copy_(stack.each_keys_values[row])
        keys, values = past.keys_values(index)
        mixed.append(F.scaled_dot_product_attention(stack.query_groups[row], keys, values))
    mixed += [torch.zeros_like(query) for query in stack.query_groups[len(pasts) :]]
    if watch is not None:
        watch(index, stack.queries)
    return (mixed[0] if len(mixed) == 1 else torch.cat(mixed)).view(stack.tokens, -1)


def _depth_mixes(pairs: _Stack, singles: _Stack, positions: int) -> Sequence[_Mix]:
    """Return the depth decoder's attention: of positions 0 and 1 together, then of each other.

    They share a cache of one frame, each layer's keys and values [rows, 2, kv_heads, positions,
    dim].
    """
    config = singles.config
    shape = (config.layers, singles.tokens, 2, config.kv_heads, positions, config.head_dim)
    layers = torch.empty(shape).unbind(0)
    pair = partial(_mix_pair, stack=pairs, caches=[layer[:, :, :, :2] for layer in layers])
    return [pair] + [
        partial(
            _mix_one,
            queries=singles.queries.view(singles.tokens, config.kv_heads, -1, config.head_dim),
            keys_values=singles.keys_values,
            fresh=[layer[:, :, :, position] for layer in layers],
            pasts=[layer[:, :, :, : position + 1].unbind(1) for layer in layers],
        )
        for position in range(2, positions)
    ]


def _mix_pair(index: int, *, stack: _Stack, caches: Sequence[Tensor]) -> Tensor:
    """Attend from positions 0 and 1: tokens [2 * rows], position 0 of a row before its 1."""
    cache = caches[index]  # [rows, 2, kv_heads, 2 positions, dim]
    pairs = (len(cache), 2)
    cache.copy_(stack.keys_values.view(*pairs, *stack.keys_values.shape[1:]).permute(0, 2, 3, 1, 4))
    queries = stack.queries.view(*pairs, *stack.queries.shape[1:]).transpose(1, 2)
    keys, values = cache.unbind(1)
    mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
    return mixed.transpose(1, 2).reshape(stack.tokens, -1)


def _mix_one(
    index: int,
    *,
    queries: Tensor,
    keys_values: Tensor,
    fresh: Sequence[Tensor],
    pasts: Sequence[Sequence[Tensor]],
) -> Tensor:
    """Attend from one position [rows], whose keys and values go to `fresh`, over `pasts`."""
    fresh[index].copy_(keys_values)
    keys, values = pasts[index]
    return F.scaled_dot_product_attention(queries, keys, values).view(len(queries), -1)
