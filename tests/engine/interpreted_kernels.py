"""The fused step in Triton's interpreter on a CPU, against the step in torch operations.

The captured prefill comes before it, so that the whole path of a CUDA device runs, without CUDA: a
double replaces the graphs. It shows what the kernels compute, not how a GPU compiles them.
`test_interpreted_kernels.py` runs this file in a process of its own: Triton decides at its import
whether it interprets.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from csm_trio.engine import prefill_graphed, step_graphed
from csm_trio.engine.prefill_eager import EagerPrefill, Prefill
from csm_trio.engine.prefill_graphed import GraphedPrefill
from csm_trio.engine.prefill_plan import PendingPrefill
from csm_trio.engine.prompt import Prompt
from csm_trio.engine.runner import FrameStep
from csm_trio.engine.slots import Opening, Slots
from csm_trio.engine.step_eager import EagerStep
from csm_trio.engine.step_graphed import GraphedStep
from csm_trio.engine.utterance import Frame
from csm_trio.model.checkpoint.random_weights import random_weights
from csm_trio.model.checkpoint.read_config import csm_1b_config
from csm_trio.model.config import CSMConfig, SamplingParams
from csm_trio.model.csm import CSM
from csm_trio.model.mimi.decoder import MimiDecoder
from support.rerun_graphs import rerun_graphs

# numpy computes the kernels: a sigmoid of a large negative number is 1 / inf.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")

CPU = torch.device("cpu")
F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
CODEBOOKS = 4
SLOTS = 2
FRAMES = 2
PROMPTS = {0: 33, 1: 7}  # positions by slot
GREEDY, SAMPLED = SamplingParams(0.0, 1), SamplingParams(0.9, 7)


@pytest.fixture(autouse=True)
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with rerun_graphs(monkeypatch, prefill_graphed, step_graphed):
        yield


def small_config() -> CSMConfig:
    """Shrink CSM-1B to sizes that fill no tile of a kernel, and to four codebooks."""
    whole = csm_1b_config()
    backbone = replace(
        whole.backbone, hidden_size=80, intermediate_size=112, layers=2, heads=6, kv_heads=2,
        head_dim=24, max_positions=64,
    )  # fmt: skip
    depth = replace(backbone, hidden_size=48, heads=4, head_dim=12, layers=1, max_positions=9)
    codec = replace(
        whole.codec, hidden_size=32, filters=4, layers=1, heads=4, kv_heads=4, head_dim=8,
        intermediate_size=40, sliding_window=20, codebook_size=100, codebook_dim=16,
        vq_hidden_size=16, upsample_groups=32, quantizers=CODEBOOKS,
    )  # fmt: skip
    return replace(
        whole, backbone=backbone, depth=depth, codec=codec, codebooks=CODEBOOKS,
        audio_vocab_size=103, text_vocab_size=64,
    )  # fmt: skip


def load(
    config: CSMConfig, dtype: torch.dtype, codec_dtype: torch.dtype
) -> tuple[CSM, MimiDecoder]:
    weights = random_weights(config, device=CPU, dtype=F32)
    # Sharper logits, so that rounding does not change a code.
    weights["lm_head.weight"] *= 8
    weights["depth_decoder.codebooks_head.weight"] *= 8
    model = CSM(config, device=CPU)
    model.load({name: tensor.to(dtype) for name, tensor in weights.items()})
    codec = MimiDecoder(config.codec).to(codec_dtype)
    codec.load_tensors(weights)
    return model, codec


def pending(config: CSMConfig, slot: int, sampling: SamplingParams) -> PendingPrefill:
    made = np.random.default_rng(slot)
    positions = PROMPTS[slot]
    tokens = made.integers(0, config.text_vocab_size, (positions, CODEBOOKS + 1))
    opening = Opening(slot=slot, position=positions - 1, sampling=(sampling, sampling), seed=slot)
    return PendingPrefill(opening, Prompt(tokens, made.random(tokens.shape) < 0.7))


def generate(
    config: CSMConfig, prefill: Prefill, step: FrameStep, sampling: SamplingParams
) -> list[list[Frame]]:
    """Generate frames of both prompts; return them by prompt."""
    waiting: Sequence[PendingPrefill] = [pending(config, slot, sampling) for slot in PROMPTS]
    while waiting:
        done = prefill.advance(waiting)
        waiting = [one for one in waiting if one not in done]
    made = [step.run(list(PROMPTS)) for _ in range(FRAMES)]
    return [[frame for frame in row if frame is not None] for row in zip(*made, strict=True)]


def by_kernels(
    config: CSMConfig,
    dtype: torch.dtype,
    codec_dtype: torch.dtype,
    sampling: SamplingParams,
) -> list[list[Frame]]:
    model, codec = load(config, dtype, codec_dtype)
    slots = Slots(config, SLOTS, codec, device=CPU, dtype=dtype)
    prefill = GraphedPrefill(model, slots)
    prefill.capture()
    step = GraphedStep(config, model, codec, slots)
    step.capture()
    return generate(config, prefill, step, sampling)


def by_torch(config: CSMConfig, sampling: SamplingParams) -> list[list[Frame]]:
    model, codec = load(config, F32, F32)
    slots = Slots(config, SLOTS, codec, device=CPU, dtype=F32)
    return generate(config, EagerPrefill(model, slots), EagerStep(model, codec, slots), sampling)


def codes_of(frames: Sequence[Frame]) -> NDArray[np.int16]:
    return np.stack([frame.codes for frame in frames])


def pcm_of(frames: Sequence[Frame]) -> NDArray[np.int16]:
    return np.concatenate([frame.pcm for frame in frames])


@pytest.mark.parametrize(
    ("dtype", "codec_dtype", "sampling", "atol"),
    [
        (F32, F32, SAMPLED, 2),
        (F32, F16, GREEDY, 60),
        (F16, F16, GREEDY, 60),
    ],
    ids=["f32", "f32 with an f16 codec", "f16"],
)
def test_codes_and_samples_equal_those_of_torch(
    dtype: torch.dtype,
    codec_dtype: torch.dtype,
    sampling: SamplingParams,
    atol: int,
) -> None:
    config = small_config()
    expected = by_torch(config, sampling)
    made = by_kernels(config, dtype, codec_dtype, sampling)
    for row, other in zip(made, expected, strict=True):
        assert len(np.unique(codes_of(other), axis=0)) == FRAMES, "its frames must differ"
        np.testing.assert_array_equal(codes_of(row), codes_of(other))
        np.testing.assert_allclose(pcm_of(row), pcm_of(other), atol=atol)
