"""Rotary embedding at CSM-1B's sizes: the two traps of its numerics, with what each would cost."""

import math
from pathlib import Path

import pytest
import torch
from transformers import CsmConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from csm_trio.config import EngineConfig
from csm_trio.engine.load import load_model
from csm_trio.model.checkpoint.read_config import csm_1b_config
from csm_trio.model.config import LlamaConfig
from csm_trio.model.llama import RotaryTable, inverse_frequencies, rotate
from support.tiny_csm import write_tiny_checkpoint

CPU = torch.device("cpu")
LAST = 2047
HALVES = {"backbone": csm_1b_config().backbone, "depth": csm_1b_config().depth}


def angles_at_the_end(config: LlamaConfig) -> torch.Tensor:
    """Return the angles of the last position in float64, by the published rule of Llama 3.

    meta-llama/llama-models, `apply_scaling`; torchtune's `Llama3ScaledRoPE` is the same.
    """
    scaling = config.rope_scaling
    assert scaling is not None
    found = []
    for i in range(0, config.head_dim, 2):
        frequency = 1 / config.rope_theta ** (i / config.head_dim)
        turns = scaling.original_max_positions * frequency / (2 * math.pi)
        if turns < scaling.low_freq_factor:
            frequency /= scaling.factor
        elif turns <= scaling.high_freq_factor:
            span = scaling.high_freq_factor - scaling.low_freq_factor
            smooth = (turns - scaling.low_freq_factor) / span
            frequency = (1 - smooth) * frequency / scaling.factor + smooth * frequency
        found.append(LAST * frequency)
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("config", HALVES.values(), ids=HALVES)
def test_rope_is_scaled_as_in_llama_3(config: LlamaConfig) -> None:
    expected = angles_at_the_end(config)
    ours = inverse_frequencies(config).double() * LAST
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-3)
    unscaled = LAST / config.rope_theta ** (
        torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    )
    assert (unscaled - expected).abs().max() > 1.5, "radians"


def test_the_checkpoints_own_form_of_the_scaling_means_the_same() -> None:
    """Transformers' conversion writes other numbers for one rule (convert_csm.py)."""
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 32.0,
        "low_freq_factor": 0.125,
        "high_freq_factor": 0.5,
        "original_max_position_embeddings": 1024,
    }
    theirs, _ = ROPE_INIT_FUNCTIONS["llama3"](CsmConfig(rope_parameters=rope), CPU)
    torch.testing.assert_close(inverse_frequencies(HALVES["backbone"]), theirs)


@pytest.mark.parametrize("config", HALVES.values(), ids=HALVES)
def test_a_bf16_model_rotates_by_float32_tables(config: LlamaConfig) -> None:
    cos, sin = RotaryTable(config, device=CPU).at(
        torch.tensor([min(LAST, config.max_positions - 1)])
    )
    assert (cos.dtype, sin.dtype) == (torch.float32, torch.float32)
    x = torch.randn(1, 4, config.head_dim, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = rotate(x.double().float(), cos, sin).double()
    turned = rotate(x, cos, sin)
    assert turned.dtype == torch.bfloat16
    # Half a unit in the last place of bfloat16's eight bits, of the largest value.
    assert (turned.double() - exact).abs().max() <= exact.abs().max() * 2**-8


def test_a_model_loaded_in_bf16_keeps_its_tables_in_float32(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path)
    model = load_model(EngineConfig(weights_path=folder, device="cpu", dtype="bf16")).model
    assert model.audio_embedding.dtype == torch.bfloat16
    model.to(torch.bfloat16)
    tables = (model.rotary.cos, model.rotary.sin, model.depth_cos, model.depth_sin)
    assert {table.dtype for table in tables} == {torch.float32}
    rounded = model.rotary.cos.bfloat16().float()
    assert (rounded - model.rotary.cos).abs().max() > 1e-3, "what a cast table would be off by"
