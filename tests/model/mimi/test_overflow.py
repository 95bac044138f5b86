"""The codec in half precision: its error with trained weights, and how an overflow is found."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import csm_trio
from csm_trio.model.checkpoint.random_weights import random_weights
from csm_trio.model.checkpoint.read_config import csm_1b_config, read_config
from csm_trio.model.config import CSMConfig, MimiConfig
from csm_trio.model.mimi.decoder import MimiDecoder
from csm_trio.model.mimi.overflow import stays_finite

CPU = torch.device("cpu")
VOICE = Path(csm_trio.__file__).parent / "nano_voice"
FRAMES = 3  # products in half precision are slow on a CPU


def load(config: MimiConfig, tensors: dict[str, Tensor], dtype: torch.dtype) -> MimiDecoder:
    codec = MimiDecoder(config).to(dtype)
    codec.load_tensors(tensors)
    return codec


@torch.inference_mode()
def decode(codec: MimiDecoder, codes: Tensor) -> Tensor:
    """Decode codes [frames, codebooks] of one stream; return its samples."""
    state = codec.open_state(1, device=CPU, dtype=codec.dtype)
    row = torch.tensor([0])
    return torch.cat([codec.decode(frame[None], row, state)[0] for frame in codes])


def small_config() -> CSMConfig:
    whole = csm_1b_config()
    codec = replace(
        whole.codec, hidden_size=16, filters=2, upsampling_ratios=(3, 2), layers=1, heads=2,
        kv_heads=2, head_dim=8, intermediate_size=24, sliding_window=8, codebook_size=40,
        codebook_dim=8, vq_hidden_size=8, quantizers=4, upsample_groups=16,
    )  # fmt: skip
    layers = replace(whole.backbone, hidden_size=16, intermediate_size=16, layers=1)
    return replace(
        whole, backbone=layers, depth=layers, codec=codec, text_vocab_size=8, audio_vocab_size=43
    )


@pytest.fixture(scope="module")
def small() -> tuple[MimiConfig, dict[str, Tensor]]:
    config = small_config()
    return config.codec, random_weights(config, device=CPU, dtype=torch.float32)


def test_f16_is_nearer_to_f32_than_bf16_with_trained_weights() -> None:
    config = read_config(VOICE / "config.json", None).codec
    tensors = load_file(VOICE / "model.safetensors")
    made = torch.Generator().manual_seed(0)
    codes = torch.randint(config.codebook_size, (FRAMES, config.quantizers), generator=made)
    exact = decode(load(config, tensors, torch.float32), codes)

    def snr_db(dtype: torch.dtype) -> float:
        error = decode(load(config, tensors, dtype), codes) - exact
        return 20 * math.log10(exact.norm() / error.norm())

    of_f16, of_bf16 = snr_db(torch.float16), snr_db(torch.bfloat16)
    assert of_f16 > 45
    assert of_f16 > of_bf16 + 12


def test_weights_of_usual_sizes_stay_finite(small: tuple[MimiConfig, dict[str, Tensor]]) -> None:
    config, tensors = small
    assert stays_finite(load(config, tensors, torch.float16), config)


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("quantizer.acoustic_residual_vector_quantizer.layers.2.codebook.embed_sum", 1e6),
        ("upsample.conv.weight", 1e5),
        ("decoder_transformer.layers.0.self_attn.q_proj.weight", 1e6),
        ("decoder_transformer.layers.0.mlp.fc1.weight", 1e5),
        ("decoder_transformer.layers.0.mlp_layer_scale.scale", 1e6),
        ("decoder.layers.0.conv.weight", 1e5),
        ("decoder.layers.3.block.3.conv.weight", 1e6),
        ("decoder.layers.8.conv.weight", 1e6),
    ],
)
def test_an_overflow_anywhere_is_found_in_f16_and_is_none_in_f32(
    small: tuple[MimiConfig, dict[str, Tensor]], name: str, factor: float
) -> None:
    config, tensors = small
    loud = tensors | {f"codec_model.{name}": factor * tensors[f"codec_model.{name}"]}
    assert not stays_finite(load(config, loud, torch.float16), config)
    assert stays_finite(load(config, loud, torch.float32), config)


def test_an_overflow_that_no_sample_shows_is_found(
    small: tuple[MimiConfig, dict[str, Tensor]],
) -> None:
    config, tensors = small
    name = "codec_model.decoder.layers.3.block.1.conv.bias"
    codec = load(config, tensors | {name: tensors[name] - 1e6}, torch.float16)
    codes = torch.zeros(3, config.quantizers, dtype=torch.int64)
    assert decode(codec, codes).isfinite().all(), "ELU maps minus infinity to -1"
    assert not stays_finite(codec, config)


def test_one_overflowing_entry_of_one_codebook_is_found(
    small: tuple[MimiConfig, dict[str, Tensor]],
) -> None:
    config, tensors = small
    name = "codec_model.quantizer.acoustic_residual_vector_quantizer.layers.1.codebook.embed_sum"
    vectors = tensors[name].clone()
    vectors[17] *= 1e6
    assert not stays_finite(load(config, tensors | {name: vectors}, torch.float16), config)
