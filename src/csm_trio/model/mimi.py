"""Mimi's decoding half, frame by frame: codes of many streams in, 80 ms of samples each out.

Every stream lives in a slot of a `MimiState` and owns its clock; a step advances any choice of
slots together. The outcome equals a full decode of each stream alone. This module knows nothing
of what makes the codes, of who listens, or of when a slot is taken and given back.

All activations are laid out [batch, time, channels], so that each causal convolution is one
matrix product over windows of the past and each transposed one, whose kernel is twice its
stride, is a two-tap causal convolution whose outputs are read as consecutive samples. The
contexts are thus always *inputs*: no partial sums are carried.

Source: Mimi as in transformers' `modeling_mimi.py` and its checkpoints' tensor names
(Defossez et al., Moshi, arXiv 2410.00037).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csm_trio.model.config import MimiConfig
from csm_trio.model.mimi_attention import FullPrecision, MimiClock, RingAttend, Timekeeper
from csm_trio.model.naming import CODEC_PREFIX

CLUSTER_USAGE_MIN = 1e-5
"""Floor of a code's usage count when its vector is averaged (transformers' `epsilon`)."""

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class MimiState:
    """What a decoder remembers of every slot; written in place, never replaced."""

    positions: Tensor  # [slots] int64, transformer positions gone by: 2 a frame
    contexts: Tensor  # [slots, floats], the last inputs of each convolution, side by side
    rings: Tensor  # [layers, slots, capacity, 2, kv_heads, head_dim], position p at p % capacity

    def clear(self, slot: int | Tensor) -> None:
        """Begin anew: the next frame of a slot (or of several, int64) is a new stream's first.

        Masked values still meet the attention's sum with weight zero; the ring is emptied so
        that no tenant's overflow (NaN times zero) reaches the next.
        """
        self.positions[slot] = 0
        self.contexts[slot] = 0
        self.rings[:, slot] = 0


class _Contexts:
    """The contexts of one step: handed out in the order of the layers, collected for the next."""

    __slots__ = ("_fresh", "_past", "_start")

    def __init__(self, past: Tensor) -> None:
        self._past = past  # [batch, floats]
        self._start = 0
        self._fresh: list[Tensor] = []

    def extend(self, inputs: Tensor, length: int) -> Tensor:
        """Put the layer's last `length` inputs before `inputs` [batch, time, channels]."""
        batch, _, channels = inputs.shape
        past = self._past.narrow(1, self._start, length * channels).view(batch, length, channels)
        self._start += length * channels
        joined = torch.cat((past, inputs), 1)  # [batch, length + time, channels]
        self._fresh.append(joined[:, -length:].flatten(1))
        return joined

    def collect(self) -> Tensor:
        """Join what the next step needs: [batch, floats]."""
        return torch.cat(self._fresh, 1)


class _Dequantizer(FullPrecision):
    """The codebooks, already through their output projections: a frame is one gather and sum."""

    table: Tensor  # [quantizers * codebook_size, hidden_size] fp32, whatever the module's dtype
    offsets: Tensor  # [quantizers] first row of each codebook

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        self._config = config
        rows = config.quantizers * config.codebook_size
        self.register_buffer("table", torch.empty(rows, config.hidden_size, dtype=torch.float32))
        offsets = torch.arange(config.quantizers) * config.codebook_size
        self.register_buffer("offsets", offsets)

    def forward(self, codes: Tensor) -> Tensor:
        """Sum the vectors of `codes` [batch, codebooks]: [batch, hidden_size] fp32."""
        return F.embedding_bag(codes + self.offsets[: codes.shape[1]], self.table, mode="sum")

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        config = self._config
        semantic = config.semantic_quantizers
        tables = self.table.view(config.quantizers, config.codebook_size, config.hidden_size)
        self._load_half(tensors, "semantic", tables[:semantic])
        self._load_half(tensors, "acoustic", tables[semantic:])

    def _load_half(self, tensors: Mapping[str, Tensor], half: str, tables: Tensor) -> None:
        root = f"quantizer.{half}_residual_vector_quantizer"
        projection = None
        if self._config.vq_hidden_size != self._config.hidden_size:  # else the checkpoint has none
            projection = _take(tensors, f"{root}.output_proj.weight")[:, :, 0]
        for index, table in enumerate(tables):
            codebook = f"{root}.layers.{index}.codebook"
            usage = _take(tensors, f"{codebook}.cluster_usage")
            vectors = _take(tensors, f"{codebook}.embed_sum")
            vectors = vectors / usage.clamp(min=CLUSTER_USAGE_MIN)[:, None]
            table.copy_(vectors if projection is None else vectors @ projection.t())


class _CausalConv(nn.Module):
    """A convolution over the past, dilated or transposed, as one product with its windows.

    With a `stride` it is transposed, trimmed on the right, its kernel twice the stride: 2 taps,
    for the `stride` outputs of one input owe something to it and to the input before it.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        taps: int,
        dilation: int = 1,
        stride: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self._channels, self._outputs = channels, outputs
        self._taps, self._dilation, self._stride = taps, dilation, stride
        self._context = (taps - 1) * dilation  # inputs to remember
        self.context_floats = self._context * channels
        self.weight = _frozen(stride * outputs, taps * channels)
        self.bias = _frozen(stride * outputs) if bias else None

    def _windows(self, inputs: Tensor, contexts: _Contexts) -> Tensor:
        """Lay out each output's inputs, oldest tap first: [batch * time, taps * channels]."""
        batch, time, channels = inputs.shape
        if self._taps == 1:
            return inputs.flatten(0, 1)
        joined = contexts.extend(inputs, self._context)
        size = (batch, time, self._taps, channels)
        row = joined.stride(0)
        view = joined.as_strided(size, (row, channels, self._dilation * channels, 1))
        return view.reshape(batch * time, self._taps * channels)

    def forward(self, inputs: Tensor, contexts: _Contexts) -> Tensor:
        """Convolve [batch, time, channels] into [batch, time * stride, outputs]."""
        windows = self._windows(inputs, contexts)
        outputs = F.linear(windows, self.weight, self.bias)
        return outputs.view(inputs.shape[0], -1, self._outputs)

    def load(self, tensors: Mapping[str, Tensor], name: str) -> None:
        """Load `conv.weight` [outputs, channels, taps] and `conv.bias` under `name`."""
        weight = _take(tensors, f"{name}.conv.weight")
        self.weight.copy_(weight.permute(0, 2, 1).flatten(1))
        self._load_bias(tensors, name)

    def load_transposed(self, tensors: Mapping[str, Tensor], name: str, *, groups: int = 1) -> None:
        """Load `conv.weight` [channels, outputs / groups, 2 * stride], groups made dense."""
        channels, outputs, stride = self._channels, self._outputs, self._stride
        weight = _take(tensors, f"{name}.conv.weight")
        dense = weight.new_zeros(channels, groups, outputs // groups, 2 * stride)
        place = torch.arange(channels, device=weight.device)
        dense[place, place // (channels // groups)] = weight
        # The kernel's second half is what an input leaves for the step after its own.
        taps = dense.view(channels, outputs, 2, stride).flip(2)
        self.weight.copy_(taps.permute(3, 1, 2, 0).reshape(stride * outputs, 2 * channels))
        self._load_bias(tensors, name)

    def _load_bias(self, tensors: Mapping[str, Tensor], name: str) -> None:
        if self.bias is not None:
            bias = _take(tensors, f"{name}.conv.bias")
            self.bias.copy_(bias.repeat(self._stride))


class _Layer(nn.Module):
    """One transformer layer: windowed attention over the slot's ring, then an MLP.

    The layer scales are folded into the output projections when loaded.
    """

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        hidden, head_dim = config.hidden_size, config.head_dim
        self.attention_norm = nn.LayerNorm(hidden, eps=config.norm_eps)
        self.mlp_norm = nn.LayerNorm(hidden, eps=config.norm_eps)
        self.qkv = _frozen((config.heads + 2 * config.kv_heads) * head_dim, hidden)
        self.attention_out = _frozen(config.heads * head_dim, hidden)  # [in, out]
        self.mlp_in = _frozen(config.intermediate_size, hidden)
        self.mlp_out = _frozen(config.intermediate_size, hidden)  # [in, out]

    def forward(self, hidden: Tensor, ring: Tensor, attend: RingAttend) -> Tensor:
        """Advance [batch, steps, hidden_size] through this layer's `ring`."""
        seen = attend(F.linear(self.attention_norm(hidden), self.qkv), ring)
        flat = hidden.view(-1, hidden.shape[2])  # [batch * steps, hidden_size]
        flat = torch.addmm(flat, seen.flatten(0, 1), self.attention_out)
        normed = self.mlp_norm(flat)
        flat = torch.addmm(flat, F.gelu(F.linear(normed, self.mlp_in)), self.mlp_out)
        return flat.view(hidden.shape)

    def load(self, tensors: Mapping[str, Tensor], name: str) -> None:
        attention = f"{name}.self_attn"
        qkv = [_take(tensors, f"{attention}.{part}_proj.weight") for part in "qkv"]
        self.qkv.copy_(torch.cat(qkv))
        out = _take(tensors, f"{attention}.o_proj.weight")
        scale = _take(tensors, f"{name}.self_attn_layer_scale.scale")
        self.attention_out.copy_((scale[:, None] * out).t())
        self.mlp_in.copy_(_take(tensors, f"{name}.mlp.fc1.weight"))
        out = _take(tensors, f"{name}.mlp.fc2.weight")
        scale = _take(tensors, f"{name}.mlp_layer_scale.scale")
        self.mlp_out.copy_((scale[:, None] * out).t())
        for norm, part in (
            (self.attention_norm, "input_layernorm"),
            (self.mlp_norm, "post_attention_layernorm"),
        ):
            norm.weight.copy_(_take(tensors, f"{name}.{part}.weight"))
            norm.bias.copy_(_take(tensors, f"{name}.{part}.bias"))


class _Residual(nn.Module):
    """A residual block: ELU, dilated convolution to fewer channels, ELU, and back."""

    def __init__(self, config: MimiConfig, channels: int, *, dilation: int) -> None:
        super().__init__()
        inner = channels // config.compress
        taps = config.residual_kernel_size
        self.narrow = _CausalConv(channels, inner, taps=taps, dilation=dilation)
        self.widen = _CausalConv(inner, channels, taps=1)

    def forward(self, hidden: Tensor, contexts: _Contexts) -> Tensor:
        """Add the block's branch to `hidden` [batch, time, channels], in place."""
        inner = F.elu_(self.narrow(F.elu(hidden), contexts))
        return hidden.add_(self.widen(inner, contexts))


class _Stage(nn.Module):
    """One rise in sample rate: ELU, transposed convolution, residual blocks."""

    def __init__(self, config: MimiConfig, channels: int, ratio: int) -> None:
        super().__init__()
        self.rise = _CausalConv(channels, channels // 2, taps=2, stride=ratio)
        self.residuals = nn.ModuleList(
            _Residual(config, channels // 2, dilation=config.dilation_growth**index)
            for index in range(config.residual_layers)
        )

    def forward(self, hidden: Tensor, contexts: _Contexts) -> Tensor:
        """Turn [batch, time, channels] into [batch, time * ratio, channels / 2]."""
        hidden = self.rise(F.elu_(hidden), contexts)
        for residual in self.residuals:
            hidden = residual(hidden, contexts)
        return hidden


class MimiDecoder(nn.Module):
    """Mimi's decoding half: quantizer, upsampling, transformer and SEANet, for slots of streams.

    Cast with `.to`, its codebooks and angles stay fp32. A step has static shapes, reads nothing
    back and branches on no data: it can be captured in a CUDA graph per batch size.
    """

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        self._config = config
        hidden = config.hidden_size
        channels = config.filters * 2 ** len(config.upsampling_ratios)
        self.frame_samples = config.upsample_stride * math.prod(config.upsampling_ratios)
        self.dequantizer = _Dequantizer(config)
        self.upsample: _CausalConv | None = None
        if config.upsample_stride > 1:  # else the checkpoint has none
            stride = config.upsample_stride
            self.upsample = _CausalConv(hidden, hidden, taps=2, stride=stride, bias=False)
        self.timekeeper = Timekeeper(config)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.first = _CausalConv(hidden, channels, taps=config.kernel_size)
        self.stages = nn.ModuleList(
            _Stage(config, channels >> index, ratio)
            for index, ratio in enumerate(config.upsampling_ratios)
        )
        self.last = _CausalConv(config.filters, 1, taps=config.last_kernel_size)
        self.requires_grad_(False)

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the weights from a checkpoint's `codec_model.*` tensors (transformers' names).

        What is folded together is folded in fp32 and then cast to the dtype the module has.
        Their names and shapes have been compared with `shapes.codec_shapes`.
        """
        self.dequantizer.load(tensors)
        if self.upsample is not None:
            groups = self._config.upsample_groups
            self.upsample.load_transposed(tensors, "upsample", groups=groups)
        for index, layer in enumerate(_each(self.layers, _Layer)):
            layer.load(tensors, f"decoder_transformer.layers.{index}")
        self._load_seanet(tensors)

    def _load_seanet(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the convolutions; the checkpoint counts the ELUs between them as layers too."""
        self.first.load(tensors, "decoder.layers.0")
        place = 2
        for stage in _each(self.stages, _Stage):
            stage.rise.load_transposed(tensors, f"decoder.layers.{place}")
            for residual in _each(stage.residuals, _Residual):
                place += 1
                residual.narrow.load(tensors, f"decoder.layers.{place}.block.1")
                residual.widen.load(tensors, f"decoder.layers.{place}.block.3")
            place += 2
        self.last.load(tensors, f"decoder.layers.{place}")

    def open_state(self, slots: int, *, device: torch.device, dtype: torch.dtype) -> MimiState:
        """Make room for `slots` streams, all at their beginning; `dtype` is the module's own."""
        config = self._config
        floats = sum(conv.context_floats for conv in self.modules() if type(conv) is _CausalConv)
        ring = (self.timekeeper.capacity, 2, config.kv_heads, config.head_dim)
        return MimiState(
            positions=torch.zeros(slots, dtype=torch.int64, device=device),
            contexts=torch.zeros(slots, floats, dtype=dtype, device=device),
            rings=torch.zeros(config.layers, slots, *ring, dtype=dtype, device=device),
        )

    def decode(
        self,
        codes: Tensor,
        rows: Tensor,
        state: MimiState,
        *,
        attending: Callable[[MimiClock], RingAttend] | None = None,
    ) -> Tensor:
        """Decode one frame of each row and advance the slots of `rows`, and no others.

        `codes` is [batch, codebooks] int64, each below `codebook_size`; `rows` [batch] int64
        names their slots. A slot may be named twice only if nothing is expected of it (padding
        at a dummy slot). `attending` replaces torch's operations over the rings. Returns fp32
        samples [batch, frame_samples], not clipped.
        """
        start = state.positions.index_select(0, rows)  # [batch]
        contexts = _Contexts(state.contexts.index_select(0, rows))
        attend = (attending or self.timekeeper.attending)(self.timekeeper(rows, start))
        hidden = self.dequantizer(codes)[:, None].to(state.contexts.dtype)
        if self.upsample is not None:
            hidden = self.upsample(hidden, contexts)  # [batch, steps, hidden_size]
        for layer, ring in zip(self.layers, state.rings, strict=True):
            hidden = layer(hidden, ring, attend)
        hidden = self.first(hidden, contexts)
        for stage in self.stages:
            hidden = stage(hidden, contexts)
        pcm: Tensor = self.last(F.elu_(hidden), contexts)  # [batch, frame_samples, 1]
        state.positions.index_copy_(0, rows, start + self._config.upsample_stride)
        state.contexts.index_copy_(0, rows, contexts.collect())
        return pcm.squeeze(2).float()


def _take(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    return tensors[CODEC_PREFIX + name].float()


def _frozen(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape), requires_grad=False)


def _each(modules: nn.ModuleList, kind: type[M]) -> Iterator[M]:
    return (module for module in modules if isinstance(module, kind))
