"""The sizes of a CSM checkpoint as frozen values; no other module hard-codes a size."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """RoPE frequency scaling of Llama 3 (`rope_type: llama3` in transformers' configs)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """Sizes of one Llama transformer: CSM's backbone or its depth decoder."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    max_positions: int
    rope_theta: float
    rope_scaling: Llama3Scaling | None


@dataclass(frozen=True, slots=True)
class MimiConfig:
    """Sizes of Mimi's decoder (comments give the names of transformers' `MimiConfig`)."""

    hidden_size: int
    filters: int  # num_filters
    upsampling_ratios: tuple[int, ...]
    kernel_size: int
    last_kernel_size: int
    residual_kernel_size: int
    residual_layers: int  # num_residual_layers
    dilation_growth: int  # dilation_growth_rate
    compress: int
    layers: int  # num_hidden_layers
    heads: int  # num_attention_heads
    kv_heads: int  # num_key_value_heads
    head_dim: int
    intermediate_size: int
    norm_eps: float
    rope_theta: float
    sliding_window: int  # a key is visible iff 0 <= query - key < sliding_window
    codebook_size: int
    codebook_dim: int
    vq_hidden_size: int  # vector_quantization_hidden_dimension
    quantizers: int  # num_quantizers
    semantic_quantizers: int  # num_semantic_quantizers
    upsample_groups: int
    upsample_stride: int  # encodec frame rate / frame rate: 2 for Mimi


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters of the backbone or the depth decoder; `temperature` 0 is greedy."""

    temperature: float
    top_k: int


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """Default sampling parameters from a checkpoint's `generation_config.json`."""

    backbone: SamplingParams
    depth: SamplingParams


@dataclass(frozen=True, slots=True)
class CSMConfig:
    """Sizes of a CSM checkpoint: backbone, depth decoder, codec, and the ids they share."""

    backbone: LlamaConfig
    depth: LlamaConfig
    codec: MimiConfig
    codebooks: int
    audio_vocab_size: int  # ids of a codebook head; only those < codec.codebook_size decode
    text_vocab_size: int
    codebook_eos_id: int
    sampling: SamplingDefaults
