"""A row with NaN or infinity fails alone, and its slot is as new afterwards."""

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from csm_trio.config import EngineConfig
from csm_trio.engine.load import load_model, load_runner, warm_runner
from csm_trio.engine.runner import TorchRunner
from csm_trio.engine.utterance import (
    Frame,
    PromptSegment,
    Sampling,
    StepResult,
    Utterance,
    VoicePrefix,
)
from csm_trio.errors import NotFinite, StartupError
from csm_trio.model.attention import KVCache
from support.tiny_csm import CODEBOOKS, write_tiny_checkpoint

GREEDY = Sampling(temperature=0)
SAMPLED = Sampling(temperature=0.9, top_k=20, seed=7)
TEXTS = ("Hello there, how are you?", "Numbers: 1 2 3, and then some more of them.")
FRAMES = 8
FAILS_AT = 3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def runners(checkpoint: Path) -> dict[str, TorchRunner]:
    return {dtype: _runner(checkpoint, dtype) for dtype in ("f32", "int8", "int4")}


def _runner(checkpoint: Path, dtype: str = "f32") -> TorchRunner:
    loaded = load_model(EngineConfig(weights_path=checkpoint, device="cpu", dtype=dtype))
    return TorchRunner(
        loaded.config,
        loaded.model,
        loaded.codec,
        loaded.tokenizer,
        slots=3,
        placement=loaded.placement,
    )


def _open(runner: TorchRunner, slot: int, subject: Utterance) -> None:
    assert not isinstance(runner.open([(slot, subject)])[0], Exception)
    runner.prefill_all()


def _alone(runner: TorchRunner, subject: Utterance, *, slot: int) -> list[StepResult]:
    _open(runner, slot, subject)
    made = [runner.step([slot])[0] for _ in range(FRAMES)]
    runner.close(slot)
    return made


def _assert_same(made: Sequence[StepResult], expected: Sequence[StepResult]) -> None:
    assert len(made) == len(expected)
    for ours, theirs in zip(made, expected, strict=True):
        assert isinstance(ours, Frame)
        assert isinstance(theirs, Frame)
        np.testing.assert_array_equal(ours.codes, theirs.codes)
        np.testing.assert_array_equal(ours.pcm, theirs.pcm)


def _in_inputs(runner: TorchRunner, value: float) -> None:
    runner._slots.state.inputs[1, 5] = value


def _in_keys(runner: TorchRunner, value: float) -> None:
    runner._slots.kv.keys[0, 1, :, 2] = value


def _in_values(runner: TorchRunner, value: float) -> None:
    runner._slots.kv.values[1, 1, 0, 0, 0] = value


def _in_audio(runner: TorchRunner, value: float) -> None:
    runner._slots.codec.contexts[1] = value


DAMAGES = [_in_inputs, _in_keys, _in_values, _in_audio]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("dtype", "sampling", "value"),
    [
        ("f32", GREEDY, math.nan),
        ("f32", SAMPLED, math.inf),
        ("int8", SAMPLED, math.nan),
        ("int4", GREEDY, math.inf),
    ],
    ids=["f32-greedy-nan", "f32-sampled-inf", "int8-sampled-nan", "int4-greedy-inf"],
)
def test_its_utterance_fails_and_no_other_row_or_later_one_notices(
    damage: Callable[[TorchRunner, float], None],
    dtype: str,
    sampling: Sampling,
    value: float,
    runners: dict[str, TorchRunner],
) -> None:
    runner = runners[dtype]
    one, other = (Utterance(text, 0, 64, sampling) for text in TEXTS)
    expected = _alone(runner, one, slot=1), _alone(runner, other, slot=0)
    _open(runner, 0, other)
    _open(runner, 1, one)
    beside: list[StepResult] = []
    for step in range(FRAMES):
        if step == FAILS_AT:
            damage(runner, value)
        results = runner.step([0, 1] if step <= FAILS_AT else [0])
        beside.append(results[0])
        if step == FAILS_AT:
            assert isinstance(results[1], NotFinite)
            runner.close(1)
    _assert_same(beside, expected[1])
    state = runner._slots
    for tensor in (state.kv.keys[:, 1], state.kv.values[:, 1], state.codec.rings[:, 1]):
        assert not tensor.any()
    _assert_same(_alone(runner, one, slot=1), expected[0])


def test_its_voices_clips_are_computed_again(checkpoint: Path) -> None:
    runner = _runner(checkpoint)
    clip = PromptSegment(0, "A clip.", np.ones((5, CODEBOOKS), dtype=np.int16))
    subject = Utterance(TEXTS[0], 0, 64, GREEDY, prefix=VoicePrefix("voice", (clip,)))
    expected = _alone(runner, subject, slot=0)
    cached = runner._prefixes.get("voice")
    assert cached is not None
    cached.keys.fill_(math.nan)
    _open(runner, 0, subject)
    assert isinstance(runner.step([0])[0], NotFinite)
    runner.close(0)
    _assert_same(_alone(runner, subject, slot=0), expected)


def test_a_cleared_slot_passes_nothing_on_where_its_past_is_masked(checkpoint: Path) -> None:
    """As on devices whose attention reads masked positions, with weight zero."""
    runner = _runner(checkpoint)
    config = runner._config.backbone
    kv: KVCache = runner._slots.kv
    kv.keys[:, 1] = kv.values[:, 1] = math.nan
    new = torch.ones(2, 1, config.kv_heads, config.head_dim)
    queries = torch.ones(2, 1, config.heads, config.head_dim)
    rows, positions = torch.tensor([0, 1]), torch.tensor([9, 2])
    attend = kv.step_masked(rows, positions, longest=10)
    assert attend(0, queries, new, new)[1].isnan().any(), "what clearing is for"
    runner._slots.clear(1)
    assert attend(0, queries, new, new).isfinite().all()


def test_a_model_that_computes_nan_from_the_first_sentence_is_refused(checkpoint: Path) -> None:
    loaded = load_model(EngineConfig(weights_path=checkpoint, device="cpu"))
    loaded.model.backbone.norm.fill_(math.inf)
    with pytest.raises(StartupError, match="computes NaN or infinity for the warm-up sentence"):
        warm_runner(loaded, 1)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "int8", "int4"])
@pytest.mark.parametrize(
    "name",
    [
        "backbone_model.layers.0.self_attn.q_proj.weight",
        "depth_decoder.model.layers.0.self_attn.q_proj.weight",
        "depth_decoder.model.layers.1.self_attn.k_proj.weight",
    ],
)
def test_an_overflow_that_attention_over_few_keys_hides_is_refused(
    name: str, dtype: str, checkpoint: Path, tmp_path: Path
) -> None:
    """Torch's attention on a CPU returns zeros for NaN scores of fewer than 16 keys."""
    folder = tmp_path / "overflows"
    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    weights[name] = weights[name].sign() * (6e4 if dtype == "f16" else 3e38)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StartupError, match="computes NaN or infinity for the warm-up sentence"):
        load_runner(EngineConfig(weights_path=folder, device="cpu", dtype=dtype, pool_size=1))


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("half", ["backbone", "depth"])
def test_a_row_whose_queries_overflow_fails_at_its_first_frame(
    half: str, layer: int, checkpoint: Path
) -> None:
    runner = _runner(checkpoint)
    subject = Utterance("Hi.", 0, FRAMES, GREEDY)
    _open(runner, 0, subject)
    stack = getattr(runner._model, half)
    list(stack.blocks)[layer].input_norm.fill_(3e38)
    assert isinstance(runner.step([0])[0], NotFinite)
