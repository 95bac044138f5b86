"""The transformer of CSM's backbone and depth decoder: RMSNorm, RoPE, GQA, SwiGLU.

In: embeddings and positions. Out: hidden states after the final norm. It must not know the KV
cache: keys and values go through an `Attend` callable. The backbone attends over slots of
different lengths, the depth decoder over a per-frame cache in which all rows are at one position.
"""

import math
from collections.abc import Callable, Iterator, MutableMapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csm_trio.model.config import LlamaConfig
from csm_trio.model.linear import joined, linear, packed

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, queries [batch, time, heads, dim], keys and values [batch, time, kv_heads, dim])
-> attention outputs [batch, time, heads, dim]; it also writes keys and values to its cache."""


def inverse_frequencies(config: LlamaConfig) -> Tensor:
    """Return RoPE's inverse frequencies [head_dim / 2] in float32, Llama 3 scaling included.

    Source: `rope_type: llama3` of transformers; equal to torchtune's `Llama3ScaledRoPE`, which
    Sesame's reference uses. Without the scaling CSM-1B's angles are off by up to 2 rad.
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / (config.rope_theta**exponents)
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    wavelengths = 2 * math.pi / frequencies
    longest_kept = scaling.original_max_positions / scaling.high_freq_factor
    shortest_scaled = scaling.original_max_positions / scaling.low_freq_factor
    blend = (scaling.original_max_positions / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    blended = (1 - blend) * frequencies / scaling.factor + blend * frequencies
    scaled = torch.where(wavelengths > shortest_scaled, frequencies / scaling.factor, blended)
    return torch.where(wavelengths < longest_kept, frequencies, scaled)


class RotaryTable:
    """Cosines and sines of every position, float32 whatever the model's dtype.

    It is no `nn.Module`, so that `.to(bfloat16)` cannot cast it: cosines would be off by 0.27 at
    position 300.
    """

    def __init__(self, config: LlamaConfig, *, device: torch.device) -> None:
        positions = torch.arange(config.max_positions, dtype=torch.float32)
        angles = torch.outer(positions, inverse_frequencies(config))  # [positions, dim / 2]
        self.cos = torch.cat((angles.cos(), angles.cos()), dim=-1).to(device)
        self.sin = torch.cat((-angles.sin(), angles.sin()), dim=-1).to(device)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return (cos, signed sin), each [*positions, 1, head_dim]."""
        return self.cos[positions].unsqueeze(-2), self.sin[positions].unsqueeze(-2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply RoPE (Su et al., 2021): x [..., heads, dim], cos and sin float32 [..., 1, dim].

    Rotate-half layout, computed in float32, returned in the type of `x`; the backbone, the depth
    decoder and Mimi share it. `sin` is negative in the first half, which saves a negation and a
    copy.
    """
    wide = x.float()
    swapped = wide.roll(x.shape[-1] // 2, dims=-1)
    return torch.addcmul(wide * cos, swapped, sin).to(x.dtype)


class LlamaLayer(nn.Module):
    """One transformer block; q, k, v are one matrix (`qkv`), gate and up another (`gate_up`)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.norm_eps = config.norm_eps
        query_dim, kv_dim = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.input_norm = nn.Parameter(torch.empty(config.hidden_size))
        self.qkv = nn.Parameter(torch.empty(query_dim + 2 * kv_dim, config.hidden_size))
        self.out = nn.Parameter(torch.empty(config.hidden_size, query_dim))
        self.mlp_norm = nn.Parameter(torch.empty(config.hidden_size))
        self.gate_up = nn.Parameter(torch.empty(2 * config.intermediate_size, config.hidden_size))
        self.down = nn.Parameter(torch.empty(config.hidden_size, config.intermediate_size))

    def load(self, tensors: MutableMapping[str, Tensor], prefix: str) -> None:
        """Take this layer's tensors, named as in transformers' checkpoints under `prefix`.

        They are removed from `tensors` as they are taken, so that no tensor is in memory twice.
        """

        def taken(*names: str) -> nn.Parameter:
            return joined([tensors.pop(f"{prefix}.{name}.weight") for name in names])

        self.input_norm = taken("input_layernorm")
        self.qkv = taken("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        self.out = taken("self_attn.o_proj")
        self.mlp_norm = taken("post_attention_layernorm")
        self.gate_up = taken("mlp.gate_proj", "mlp.up_proj")
        self.down = taken("mlp.down_proj")

    def pack(self) -> None:
        """Pack the matrices for a CPU (see `packed`)."""
        self.qkv, self.out = packed(self.qkv), packed(self.out)
        self.gate_up, self.down = packed(self.gate_up), packed(self.down)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, index: int, attend: Attend) -> Tensor:
        batch, time, hidden = x.shape
        normed = F.rms_norm(x, (hidden,), self.input_norm, self.norm_eps)
        qkv = linear(normed, self.qkv).view(batch, time, -1, self.head_dim)
        rotated = rotate(qkv[:, :, : self.heads + self.kv_heads], cos, sin)
        mixed = attend(
            index,
            rotated[:, :, : self.heads],
            rotated[:, :, self.heads :],
            qkv[:, :, self.heads + self.kv_heads :],
        )
        x = x + linear(mixed.reshape(batch, time, -1), self.out)
        normed = F.rms_norm(x, (hidden,), self.mlp_norm, self.norm_eps)
        gate, up = linear(normed, self.gate_up).chunk(2, dim=-1)
        return x + linear(F.silu(gate) * up, self.down)


class Llama(nn.Module):
    """A stack of blocks and the final norm, without embeddings and output heads."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(LlamaLayer(config) for _ in range(config.layers))
        self.norm = nn.Parameter(torch.empty(config.hidden_size))

    @property
    def blocks(self) -> Iterator[LlamaLayer]:
        """The layers, in order."""
        return (layer for layer in self.layers if isinstance(layer, LlamaLayer))

    def load(self, tensors: MutableMapping[str, Tensor], prefix: str) -> None:
        """Take the tensors named as in transformers' checkpoints under `prefix`."""
        for index, layer in enumerate(self.blocks):
            layer.load(tensors, f"{prefix}.layers.{index}")
        self.norm = nn.Parameter(tensors.pop(f"{prefix}.norm.weight"), requires_grad=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """Map embeddings [batch, time, hidden] to hidden states of the same shape.

        `cos` and `sin` are `RotaryTable.at` of the positions [batch, time] (or broadcastable).
        """
        for index, layer in enumerate(self.layers):
            x = layer(x, cos, sin, index, attend)
        return F.rms_norm(x, (self.config.hidden_size,), self.norm, self.config.norm_eps)
