"""Mimi's decoding half, frame by frame: codes of many streams in, 80 ms of samples each out.

Every stream has a slot of a `MimiState` with its own position; a step advances any set of slots
together. The samples equal those of a full decode of each stream alone. The module must not know
the source of the codes, the reader of the samples, or when slots are acquired and released.

All activations are laid out [batch, time, channels].

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
from csm_trio.model.linear import linear, packed
from csm_trio.model.mimi.attention import FullPrecision, MimiPositions, RingAttend, RingPositions
from csm_trio.model.mimi.convolution import (
    CausalConv,
    Convolve,
    TorchConvolutions,
    frozen,
    take,
)

CLUSTER_USAGE_MIN = 1e-5
"""Minimum usage count of a code when its vector is averaged (transformers' `epsilon`)."""

_MIN_CPU_ROWS = 4
"""Rows from which MKL's sums do not depend on the number of rows."""

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class MimiState:
    """The streaming state of every slot; written in place, never replaced."""

    positions: Tensor  # [slots] int64, transformer positions so far: 2 per frame
    contexts: Tensor  # [slots, floats], the last inputs of each convolution, side by side
    rings: Tensor  # [layers, slots, capacity, 2, kv_heads, head_dim], position p at p % capacity

    def clear(self, slot: int) -> None:
        """Reset a slot: its next frame is the first of another stream."""
        # The ring too: masked values enter the attention's sum with weight zero, and an overflow of
        # the previous stream would reach the next one (NaN times zero).
        self.positions[slot] = 0
        self.contexts[slot] = 0
        self.rings[:, slot] = 0

    def rewind(self, slots: Tensor) -> None:
        """Reset the positions of several slots (int64); ring entries are masked until written."""
        self.positions.index_fill_(0, slots, 0)
        self.contexts.index_fill_(0, slots, 0)


class _Dequantizer(FullPrecision):
    """The codebooks with their output projections applied: a frame is one gather and sum."""

    table: Tensor  # [quantizers * codebook_size, hidden_size] fp32 in every dtype
    offsets: Tensor  # [quantizers] first row of each codebook

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        self._config = config
        rows = config.quantizers * config.codebook_size
        self.register_buffer("table", torch.empty(rows, config.hidden_size, dtype=torch.float32))
        offsets = torch.arange(config.quantizers) * config.codebook_size
        self.register_buffer("offsets", offsets)

    def forward(self, codes: Tensor) -> Tensor:
        """Sum the vectors of `codes` [batch, codebooks] to [batch, hidden_size] fp32."""
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
            projection = take(tensors, f"{root}.output_proj.weight")[:, :, 0]
        for index, table in enumerate(tables):
            codebook = f"{root}.layers.{index}.codebook"
            usage = take(tensors, f"{codebook}.cluster_usage")
            vectors = take(tensors, f"{codebook}.embed_sum")
            vectors = vectors / usage.clamp(min=CLUSTER_USAGE_MIN)[:, None]
            table.copy_(vectors if projection is None else vectors @ projection.t())


class _Layer(nn.Module):
    """One transformer layer: windowed attention over the slot's ring, then an MLP.

    The layer scales are folded into the output projections when loaded.
    """

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        hidden, head_dim = config.hidden_size, config.head_dim
        self.attention_norm = nn.LayerNorm(hidden, eps=config.norm_eps)
        self.mlp_norm = nn.LayerNorm(hidden, eps=config.norm_eps)
        self.qkv = frozen((config.heads + 2 * config.kv_heads) * head_dim, hidden)
        self.attention_out = frozen(config.heads * head_dim, hidden)  # [in, out]
        self.mlp_in = frozen(config.intermediate_size, hidden)
        self.mlp_out = frozen(config.intermediate_size, hidden)  # [in, out]

    def forward(self, hidden: Tensor, ring: Tensor, attend: RingAttend) -> Tensor:
        """Run the layer over `hidden` [batch, steps, hidden_size], with its KV cache `ring`."""
        mixed = attend(linear(self.attention_norm(hidden), self.qkv), ring)
        flat = hidden.view(-1, hidden.shape[2])  # [batch * steps, hidden_size]
        flat = _add_product(flat, mixed.flatten(0, 1), self.attention_out)
        normed = self.mlp_norm(flat)
        flat = _add_product(flat, F.gelu(linear(normed, self.mlp_in)), self.mlp_out)
        return flat.view(hidden.shape)

    def load(self, tensors: Mapping[str, Tensor], name: str) -> None:
        attention = f"{name}.self_attn"
        qkv = [take(tensors, f"{attention}.{part}_proj.weight") for part in "qkv"]
        self.qkv.copy_(torch.cat(qkv))
        out = take(tensors, f"{attention}.o_proj.weight")
        scale = take(tensors, f"{name}.self_attn_layer_scale.scale")
        self.attention_out.copy_((scale[:, None] * out).t())
        self.mlp_in.copy_(take(tensors, f"{name}.mlp.fc1.weight"))
        out = take(tensors, f"{name}.mlp.fc2.weight")
        scale = take(tensors, f"{name}.mlp_layer_scale.scale")
        self.mlp_out.copy_((scale[:, None] * out).t())
        for norm, part in (
            (self.attention_norm, "input_layernorm"),
            (self.mlp_norm, "post_attention_layernorm"),
        ):
            norm.weight.copy_(take(tensors, f"{name}.{part}.weight"))
            norm.bias.copy_(take(tensors, f"{name}.{part}.bias"))

    def pack(self) -> None:
        """Lay out the loaded matrices for a CPU, except those used by `addmm`."""
        self.qkv, self.mlp_in = packed(self.qkv), packed(self.mlp_in)


def _add_product(x: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
    """Return x + inputs @ weight: [rows, out], [rows, in], [in, out]."""
    rows = len(x)
    if x.is_cpu and rows < _MIN_CPU_ROWS:
        times = -(-_MIN_CPU_ROWS // rows)
        return torch.addmm(torch.cat([x] * times), torch.cat([inputs] * times), weight)[:rows]
    return torch.addmm(x, inputs, weight)


class _Residual(nn.Module):
    """A residual block's branch: dilated convolution to fewer channels, and back."""

    def __init__(self, config: MimiConfig, channels: int, *, dilation: int) -> None:
        super().__init__()
        inner = channels // config.compress
        taps = config.residual_kernel_size
        self.narrow = CausalConv(channels, inner, taps=taps, dilation=dilation)
        self.widen = CausalConv(inner, channels, taps=1)


class _Stage(nn.Module):
    """One upsampling stage: transposed convolution, residual blocks, ELU before each."""

    def __init__(self, config: MimiConfig, channels: int, ratio: int) -> None:
        super().__init__()
        self.upsample = CausalConv(channels, channels // 2, taps=2, stride=ratio)
        self.residuals = nn.ModuleList(
            _Residual(config, channels // 2, dilation=config.dilation_growth**index)
            for index in range(config.residual_layers)
        )

    def forward(self, active: Tensor, convolve: Convolve) -> Tensor:
        """Map [batch, time, channels] to [batch, time * ratio, channels / 2].

        Inputs and outputs are activated (ELU).
        """
        *others, last = _each(self.residuals, _Residual)  # at least one: `read_config` checks it
        hidden, active = convolve.both(self.upsample, active)
        for residual in others:
            inner = convolve.activated(residual.narrow, active)
            hidden, active = convolve.both(residual.widen, inner, add=hidden)
        inner = convolve.activated(last.narrow, active)
        return convolve.activated(last.widen, inner, add=hidden)


@dataclass(frozen=True, slots=True)
class DecoderKernels:
    """Kernels that replace torch's own operations in the decoder.

    attending: built from a step's positions; convolving: from the rows' contexts [batch, floats].
    """

    attending: Callable[[MimiPositions], RingAttend]
    convolving: Callable[[Tensor], Convolve]


class MimiDecoder(nn.Module):
    """Mimi's decoding half: quantizer, upsampling, transformer and SEANet, for slots of streams.

    Codebooks and angles stay fp32 when it is cast with `.to`. A step has static shapes, reads
    nothing back and branches on no data: it can be captured in a CUDA graph per batch size.
    """

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        self._config = config
        hidden = config.hidden_size
        channels = config.filters * 2 ** len(config.upsampling_ratios)
        self.frame_samples = config.upsample_stride * math.prod(config.upsampling_ratios)
        self.dequantizer = _Dequantizer(config)
        self.upsample: CausalConv | None = None
        if config.upsample_stride > 1:  # else the checkpoint has none
            stride = config.upsample_stride
            self.upsample = CausalConv(hidden, hidden, taps=2, stride=stride, bias=False)
        self.ring_positions = RingPositions(config)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.first = CausalConv(hidden, channels, taps=config.kernel_size)
        self.stages = nn.ModuleList(
            _Stage(config, channels >> index, ratio)
            for index, ratio in enumerate(config.upsampling_ratios)
        )
        self.last = CausalConv(config.filters, 1, taps=config.last_kernel_size)
        self.requires_grad_(False)

    @property
    def dtype(self) -> torch.dtype:
        """The type of activations and weights, the codebooks excepted."""
        return self.last.weight.dtype

    @property
    def context_floats(self) -> int:
        """The number of values in the contexts of a slot's convolutions."""
        return sum(conv.context_floats for conv in self.modules() if type(conv) is CausalConv)

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the weights from a checkpoint's `codec_model.*` tensors (transformers' names).

        Products of weights are computed in fp32, then cast to the dtype of the module. Names and
        shapes must match `tensor_shapes.codec_shapes`; they are not checked here.
        """
        self.dequantizer.load(tensors)
        if self.upsample is not None:
            groups = self._config.upsample_groups
            self.upsample.load_transposed(tensors, "upsample", groups=groups)
        for index, layer in enumerate(_each(self.layers, _Layer)):
            layer.load(tensors, f"decoder_transformer.layers.{index}")
        self._load_seanet(tensors)

    def pack(self) -> None:
        """Lay out the loaded matrices for a CPU."""
        for module in self.modules():
            if isinstance(module, CausalConv | _Layer):
                module.pack()

    def _load_seanet(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the convolutions; the checkpoint counts the ELUs between them as layers too."""
        self.first.load(tensors, "decoder.layers.0")
        index = 2
        for stage in _each(self.stages, _Stage):
            stage.upsample.load_transposed(tensors, f"decoder.layers.{index}")
            for residual in _each(stage.residuals, _Residual):
                index += 1
                residual.narrow.load(tensors, f"decoder.layers.{index}.block.1")
                residual.widen.load(tensors, f"decoder.layers.{index}.block.3")
            index += 2
        self.last.load(tensors, f"decoder.layers.{index}")

    def open_state(self, slots: int, *, device: torch.device, dtype: torch.dtype) -> MimiState:
        """Allocate the state of `slots` streams at their start; `dtype` is the module's own."""
        config = self._config
        ring = (self.ring_positions.capacity, 2, config.kv_heads, config.head_dim)
        return MimiState(
            positions=torch.zeros(slots, dtype=torch.int64, device=device),
            contexts=torch.zeros(slots, self.context_floats, dtype=dtype, device=device),
            rings=torch.zeros(config.layers, slots, *ring, dtype=dtype, device=device),
        )

    def decode(
        self,
        codes: Tensor,
        rows: Tensor,
        state: MimiState,
        *,
        kernels: DecoderKernels | None = None,
    ) -> Tensor:
        """Decode one frame of each row and advance the slots of `rows`, and no others.

        `codes` is [batch, codebooks] int64, each below `codebook_size`; `rows` [batch] int64
        are their slots. A slot may occur twice only as padding (the dummy slot), whose output is
        undefined. `kernels` replace torch's operations. Returns fp32 samples
        [batch, frame_samples], not clipped.
        """
        start = state.positions.index_select(0, rows)  # [batch]
        if kernels is None:
            kernels = DecoderKernels(self.ring_positions.attending, TorchConvolutions)
        convolve = kernels.convolving(state.contexts.index_select(0, rows))
        attend = kernels.attending(self.ring_positions(rows, start))
        hidden = self.dequantizer(codes)[:, None].to(state.contexts.dtype)
        if self.upsample is not None:
            hidden = convolve.raw(self.upsample, hidden)  # [batch, steps, hidden_size]
        for layer, ring in zip(self.layers, state.rings, strict=True):
            hidden = layer(hidden, ring, attend)
        active = convolve.activated(self.first, hidden)
        for stage in self.stages:
            active = stage(active, convolve)
        pcm = convolve.raw(self.last, active)  # [batch, frame_samples, 1]
        state.positions.index_copy_(0, rows, start + self._config.upsample_stride)
        state.contexts.index_copy_(0, rows, convolve.collect())
        return pcm.squeeze(2).float()


def _each(modules: nn.ModuleList, kind: type[M]) -> Iterator[M]:
    return (module for module in modules if isinstance(module, kind))
