"""Noise in the shape of a model: every tensor, the same for a seed, and sane to run."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from csm_trio.config import EngineConfig
from csm_trio.engine.load import load_model
from csm_trio.errors import StartupError
from csm_trio.model.attention import KVCache, Span
from csm_trio.model.checkpoint.random_weights import random_weights
from csm_trio.model.checkpoint.read_config import csm_1b_config
from csm_trio.model.checkpoint.tensor_shapes import expected_shapes
from csm_trio.model.config import CSMConfig
from csm_trio.model.csm import CSM
from csm_trio.model.mimi.decoder import MimiDecoder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config() -> CSMConfig:
    """CSM-1B's proportions, a sixteenth as wide."""
    whole = csm_1b_config()
    backbone = replace(
        whole.backbone, hidden_size=128, intermediate_size=512, heads=4, kv_heads=2, head_dim=32
    )
    depth = replace(backbone, hidden_size=64, layers=4, max_positions=33)
    codec = replace(
        whole.codec, hidden_size=64, filters=8, heads=2, kv_heads=2, head_dim=32,
        intermediate_size=256, codebook_dim=32, vq_hidden_size=32, upsample_groups=64,
    )  # fmt: skip
    return replace(whole, backbone=backbone, depth=depth, codec=codec, text_vocab_size=512)


def test_every_tensor_has_its_shape_and_its_type(config: CSMConfig) -> None:
    weights = random_weights(config, device=CPU, dtype=torch.bfloat16)
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == expected_shapes(
        config
    )
    for name, tensor in weights.items():
        full = name.startswith("codec_model.")
        assert tensor.dtype == (torch.float32 if full else torch.bfloat16)
        assert tensor.isfinite().all()


def test_a_seed_is_the_weights(config: CSMConfig) -> None:
    one, same, other = (
        random_weights(config, device=CPU, dtype=torch.float32, seed=seed) for seed in (1, 1, 2)
    )
    name = "lm_head.weight"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])


@torch.inference_mode()
def test_activations_keep_their_size_through_all_layers(config: CSMConfig) -> None:
    weights = random_weights(config, device=CPU, dtype=torch.float32)
    model = CSM(config, device=CPU)
    model.load(weights)
    kv = KVCache(config.backbone, 1, device=CPU, dtype=torch.float32)
    codes = torch.randint(0, 2_048, (1, config.codebooks))
    cos, sin = model.rotary.at(torch.zeros(1, 1, dtype=torch.int64))
    x = model.embed_frames(codes).unsqueeze(1)
    assert 0.3 < x.std() < 3
    for index, layer in enumerate(model.backbone.blocks):
        x = layer(x, cos, sin, index, kv.step_by_row([Span(0, 0)]))
    assert 0.3 < x.std() < 30

    codec = MimiDecoder(config.codec)
    codec.load_tensors(weights)
    state = codec.open_state(1, device=CPU, dtype=torch.float32)
    pcm = torch.cat([codec.decode(codes, torch.zeros(1, dtype=torch.int64), state)] * 3)
    assert 0.01 < pcm.std() < 3
    assert len(np.unique(pcm.numpy())) > 1_000


def test_a_slot_has_memory_for_as_many_positions_as_asked() -> None:
    bounded = load_model(EngineConfig(device="cpu", max_positions=100))
    assert bounded.config.backbone.max_positions == 100
    with pytest.raises(StartupError, match="--max-positions 1000000"):
        load_model(EngineConfig(device="cpu", max_positions=1_000_000))
