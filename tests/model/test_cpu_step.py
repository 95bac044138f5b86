"""The CPU's step against `CSM.next_frame`: equal values, to the bit."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from csm_trio.model import cpu_step
from csm_trio.model.attention import KVCache, Span
from csm_trio.model.checkpoint.random_weights import random_weights
from csm_trio.model.checkpoint.read_config import csm_1b_config
from csm_trio.model.config import CSMConfig, SamplingParams
from csm_trio.model.cpu_step import CpuFrame, DepthEmbeddings
from csm_trio.model.csm import CSM, FrameSampling
from csm_trio.model.linear import Quantization
from csm_trio.model.sampling import RowNoise, row_sampling

CPU = torch.device("cpu")
FRAMES = 3


def small_config(codebooks: int) -> CSMConfig:
    whole = csm_1b_config()
    backbone = replace(
        whole.backbone, hidden_size=80, intermediate_size=112, layers=2, heads=6, kv_heads=2,
        head_dim=24, max_positions=16,
    )  # fmt: skip
    depth = replace(
        backbone, hidden_size=48, heads=4, head_dim=12, layers=2, max_positions=codebooks + 1
    )
    codec = replace(whole.codec, codebook_size=100, quantizers=codebooks)
    return replace(
        whole, backbone=backbone, depth=depth, codec=codec, codebooks=codebooks,
        audio_vocab_size=103, text_vocab_size=64,
    )  # fmt: skip


def load(config: CSMConfig, quantization: Quantization | None) -> CSM:
    model = CSM(config, device=CPU)
    weights = random_weights(config, device=CPU, dtype=torch.float32, quantization=quantization)
    model.load(weights)
    model.pack(quantized=quantization is not None)
    return model


def sampling(rows: int, frame: int, temperature: float) -> FrameSampling:
    params = [SamplingParams(temperature, top_k=7)] * rows
    half = row_sampling(params, ids=100, device=CPU)
    return FrameSampling(halves=(half, half), noise=[(RowNoise(row), frame) for row in range(rows)])


def generate(model: CSM, rows: int, temperature: float, *, by_cpu_frame: bool) -> list[Tensor]:
    """Generate frames for all rows but the last, which is padding; return all that is computed."""
    config = model.config
    kv = KVCache(config.backbone, rows, device=CPU, dtype=torch.float32)
    noise = torch.Generator().manual_seed(0)
    inputs = torch.randn(rows, config.backbone.hidden_size, generator=noise)
    cpu_frame = CpuFrame(model, rows, DepthEmbeddings(model, rows))
    computed = []
    for frame in range(FRAMES):
        positions = torch.full((rows,), frame)
        step = inputs, positions, sampling(rows, frame, temperature)
        spans = [Span(row, frame) for row in range(max(1, rows - 1))]
        if by_cpu_frame:
            codes, finite = cpu_frame.next_codes(*step, [kv.row_past(span) for span in spans])
        else:
            codes, finite = model.next_frame(*step, kv.step_by_row(spans))
        assert finite.all()
        inputs = model.embed_frames(codes)
        computed += [codes, inputs]
    assert not torch.equal(computed[0], computed[2]), "codes must differ"
    return [*computed, kv.keys, kv.values]


@pytest.mark.parametrize("quantization", [None, *Quantization])
def test_the_first_layer_of_a_small_depth_decoder_is_known_for_every_code(
    quantization: Quantization | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(4)
    model = load(config, quantization)
    known = DepthEmbeddings(model, 3).heads(1)
    assert known is not None, "else the tests below leave it untested"
    assert known.shape == (config.audio_vocab_size, (4 + 2 * 2) * 12)
    monkeypatch.setattr(cpu_step, "_FIRST_LAYER_BYTES", known.nbytes)
    assert DepthEmbeddings(model, 3).heads(1) is None


@torch.inference_mode()
def test_a_depth_decoder_whose_first_layer_is_not_known_makes_the_same_codes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = load(small_config(8), None)
    expected = generate(model, 2, 0.9, by_cpu_frame=True)
    monkeypatch.setattr(cpu_step, "_FIRST_LAYER_BYTES", 0)
    made = generate(model, 2, 0.9, by_cpu_frame=True)
    assert all(torch.equal(one, other) for one, other in zip(made, expected, strict=True))


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("quantization", [None, *Quantization])
@pytest.mark.parametrize(("rows", "codebooks"), [(1, 8), (3, 4), (2, 2)])
@torch.inference_mode()
def test_the_cpu_s_step_equals_next_frame_to_the_bit(
    rows: int, codebooks: int, quantization: Quantization | None, temperature: float
) -> None:
    model = load(small_config(codebooks), quantization)
    expected = generate(model, rows, temperature, by_cpu_frame=False)
    made = generate(model, rows, temperature, by_cpu_frame=True)
    for one, other in zip(made, expected, strict=True):
        assert torch.equal(one, other)


@torch.inference_mode()
def test_a_row_of_nan_is_told_and_spoils_neither_others_nor_the_next_frame() -> None:
    model = load(small_config(4), None)
    frame, rows = CpuFrame(model, 2, DepthEmbeddings(model, 2)), 2
    kv = KVCache(model.config.backbone, rows, device=CPU, dtype=torch.float32)
    inputs = torch.randn(rows, 80, generator=torch.Generator().manual_seed(0))
    broken = inputs.clone()
    broken[1, 3] = torch.nan

    def step(values: Tensor) -> tuple[Tensor, Tensor]:
        pasts = [kv.row_past(Span(row, 0)) for row in range(rows)]
        return frame.next_codes(values, torch.zeros(rows).long(), sampling(rows, 0, 0.0), pasts)

    codes, finite = step(inputs)
    assert finite.tolist() == [True, True]
    beside, finite = step(broken)
    assert finite.tolist() == [True, False]
    assert torch.equal(beside[0], codes[0])
    again, finite = step(inputs)
    assert finite.tolist() == [True, True]
    assert torch.equal(again, codes)
