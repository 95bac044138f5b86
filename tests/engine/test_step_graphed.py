"""The graphed step on a CUDA device against the eager step on a CPU, and against itself."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import csm_trio
from csm_trio.engine.placement import Placement
from csm_trio.engine.prompt import TextTokenizer
from csm_trio.engine.runner import TorchRunner
from csm_trio.engine.utterance import (
    Frame,
    PromptSegment,
    Sampling,
    StepResult,
    Utterance,
    VoicePrefix,
)
from csm_trio.errors import SpeechError, TextTooLong
from csm_trio.model.attention import AlignmentHead
from csm_trio.model.checkpoint.random_weights import random_weights
from csm_trio.model.checkpoint.read_config import csm_1b_config
from csm_trio.model.config import CSMConfig, MimiConfig
from csm_trio.model.csm import CSM
from csm_trio.model.mimi.decoder import MimiDecoder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

GREEDY = Sampling(temperature=0)
SAMPLED = Sampling(temperature=0.9, top_k=9, seed=11)
TEXTS = ("Hello there, how are you?", "A", "Numbers: 1 2 3, and then some more of them.", "Yes.")
TOKENIZER = Path(csm_trio.__file__).parent / "nano_voice" / "tokenizer.json"
FRAMES = 40


def small_config(*, head_dim: int = 24, window: int = 20) -> CSMConfig:
    """Shrink CSM-1B to sizes that fill no tile of a kernel."""
    whole = csm_1b_config()
    backbone = replace(
        whole.backbone, hidden_size=80, intermediate_size=112, layers=2, heads=6, kv_heads=2,
        head_dim=head_dim, max_positions=256,
    )  # fmt: skip
    depth = replace(backbone, hidden_size=48, heads=4, head_dim=12, max_positions=33)
    return replace(whole, backbone=backbone, depth=depth, codec=small_codec(whole.codec, window))


def small_codec(whole: MimiConfig, window: int) -> MimiConfig:
    return replace(
        whole, hidden_size=32, filters=4, layers=2, heads=4, kv_heads=4, head_dim=8,
        intermediate_size=40, sliding_window=window, codebook_size=100, codebook_dim=16,
        vq_hidden_size=16, upsample_groups=32,
    )  # fmt: skip


def make_runner(
    device: str,
    *,
    dtype: torch.dtype = torch.float32,
    codec_dtype: torch.dtype | None = None,
    slots: int = 5,
    config: CSMConfig,
    head: AlignmentHead | None = None,
) -> TorchRunner:
    # The CPU's generator: each device's generator gives other numbers.
    placement = Placement(torch.device(device), dtype, codec_dtype or dtype)
    weights = random_weights(config, device=torch.device("cpu"), dtype=torch.float32)
    # Sharper logits, so that rounding does not change a code.
    weights["lm_head.weight"] *= 8
    weights["depth_decoder.codebooks_head.weight"] *= 8
    moved = {
        name: tensor.to(device) if name.startswith("codec_model") else tensor.to(device, dtype)
        for name, tensor in weights.items()
    }
    model = CSM(config, device=placement.device)
    model.load(moved)
    codec = MimiDecoder(config.codec).to(placement.device, placement.codec_dtype)
    codec.load_tensors(moved)
    tokenizer = TextTokenizer.from_file(TOKENIZER, text_vocab_size=config.text_vocab_size)
    return TorchRunner(config, model, codec, tokenizer, slots=slots, placement=placement, head=head)


@pytest.fixture(scope="module")
def on_cpu() -> TorchRunner:
    return make_runner("cpu", config=small_config())


@pytest.fixture(scope="module")
def on_cuda() -> TorchRunner:
    return make_runner("cuda", config=small_config())


def utterance(text: str, sampling: Sampling) -> Utterance:
    return Utterance(text, 0, 100, sampling)


def generate(
    runner: TorchRunner, utterances: Sequence[tuple[int, Utterance]], frames: int = FRAMES
) -> list[list[Frame]]:
    """Generate utterances together from their first frame; return each one's frames."""
    for first in range(0, len(utterances), runner.max_prefills_per_step):
        outcomes = runner.open(utterances[first : first + runner.max_prefills_per_step])
        assert all(isinstance(outcome, int) for outcome in outcomes)
    runner.prefill_all()
    slots = [slot for slot, _ in utterances]
    made = [runner.step(slots) for _ in range(frames)]
    for slot in slots:
        runner.close(slot)
    return [[frame for frame in row if isinstance(frame, Frame)] for row in zip(*made, strict=True)]


def codes_of(frames: Sequence[Frame]) -> NDArray[np.int16]:
    return np.stack([frame.codes for frame in frames])


def pcm_of(frames: Sequence[Frame]) -> NDArray[np.int16]:
    return np.concatenate([frame.pcm for frame in frames])


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_codes_and_audio_equal_the_cpus_in_f32(
    on_cpu: TorchRunner, on_cuda: TorchRunner, sampling: Sampling
) -> None:
    utterances = [(slot, utterance(text, sampling)) for slot, text in enumerate(TEXTS)]
    expected, made = generate(on_cpu, utterances), generate(on_cuda, utterances)
    for row, other in zip(made, expected, strict=True):
        assert len(np.unique(codes_of(other), axis=0)) > FRAMES // 2, "its frames must differ"
        np.testing.assert_array_equal(codes_of(row), codes_of(other))
        np.testing.assert_allclose(pcm_of(row), pcm_of(other), atol=8)


def test_a_codec_in_f16_makes_the_same_codes_and_nearly_the_cpus_audio(
    on_cpu: TorchRunner,
) -> None:
    runner = make_runner("cuda", config=small_config(), codec_dtype=torch.float16)
    utterances = [(slot, utterance(text, GREEDY)) for slot, text in enumerate(TEXTS)]
    expected, made = generate(on_cpu, utterances), generate(runner, utterances)
    for row, other in zip(made, expected, strict=True):
        np.testing.assert_array_equal(codes_of(row), codes_of(other))
        np.testing.assert_allclose(pcm_of(row), pcm_of(other), atol=100)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_row_does_not_depend_on_the_other_rows_of_its_bucket(dtype: torch.dtype) -> None:
    runner = make_runner("cuda", config=small_config(), dtype=dtype, slots=8)
    # Three rows or four: the bucket is the same, the neighbors and the slots are not.
    (alone, *_) = generate(runner, [(slot, utterance(TEXTS[0], SAMPLED)) for slot in (0, 1, 2)])
    company = [(slot, utterance(TEXTS[slot % 4], SAMPLED)) for slot in (5, 2, 4, 7)]
    accompanied = generate(runner, company)[2]
    np.testing.assert_array_equal(codes_of(accompanied), codes_of(alone))
    np.testing.assert_array_equal(pcm_of(accompanied), pcm_of(alone))


def test_a_row_continues_where_it_stopped_in_any_bucket(
    on_cpu: TorchRunner, on_cuda: TorchRunner
) -> None:
    subject = utterance(TEXTS[0], SAMPLED)
    ((expected),) = generate(on_cpu, [(0, subject)], 24)
    on_cuda.open([(0, subject)])
    on_cuda.open([(slot, utterance(TEXTS[slot], GREEDY)) for slot in (1, 2, 3)])
    on_cuda.prefill_all()
    made: list[StepResult] = []
    for step in range(24):
        company = [1, 2, 3][: step % 4]
        on_cuda.step([1])  # a step without the row does not advance it
        made.append(on_cuda.step([*company, 0])[-1])
    np.testing.assert_array_equal(
        codes_of([frame for frame in made if isinstance(frame, Frame)]), codes_of(expected)
    )


def test_a_long_past_and_a_wrapped_ring_equal_the_cpus(on_cpu: TorchRunner) -> None:
    runner = make_runner("cuda", config=small_config(), slots=1)
    subject = Utterance("x" * 60, 0, 180, GREEDY)
    (expected,), (made,) = (generate(which, [(0, subject)], 150) for which in (on_cpu, runner))
    np.testing.assert_array_equal(codes_of(made), codes_of(expected))
    np.testing.assert_allclose(pcm_of(made), pcm_of(expected), atol=8)


def test_prompts_opened_together_equal_those_opened_alone(on_cuda: TorchRunner) -> None:
    utterances = [utterance(text, GREEDY) for text in TEXTS]
    alone = [generate(on_cuda, [(0, each)], 8)[0] for each in utterances]
    together = generate(on_cuda, list(enumerate(utterances)), 8)
    for row, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(codes_of(row), codes_of(other))


def test_a_rejected_utterance_does_not_affect_others(on_cuda: TorchRunner) -> None:
    (expected,) = generate(on_cuda, [(0, utterance(TEXTS[0], GREEDY))], 5)
    long = Utterance("many words " * 300, 0, 10, GREEDY)
    outcomes = on_cuda.open([(1, long), (0, utterance(TEXTS[0], GREEDY))])
    assert isinstance(outcomes[0], TextTooLong)
    assert not isinstance(outcomes[1], SpeechError)
    on_cuda.prefill_all()
    made = [on_cuda.step([0])[0] for _ in range(5)]
    np.testing.assert_array_equal(
        codes_of([frame for frame in made if isinstance(frame, Frame)]), codes_of(expected)
    )


@pytest.mark.parametrize("sizes", [(24, 20), (64, 250)], ids=["ragged", "as CSM-1B's"])
def test_bf16_makes_nearly_the_first_frame_of_f32(sizes: tuple[int, int]) -> None:
    config = small_config(head_dim=sizes[0], window=sizes[1])
    utterances = [(slot, utterance(text, GREEDY)) for slot, text in enumerate(TEXTS)]
    exact = generate(make_runner("cpu", config=config), utterances, 2)
    rounded = generate(make_runner("cuda", config=config, dtype=torch.bfloat16), utterances, 2)
    agreeing = [
        (row.codes == other.codes).mean()
        for mine, others in zip(rounded, exact, strict=True)
        for row, other in zip(mine[:1], others[:1], strict=True)
    ]
    # One different code changes all that follow it in the frame.
    assert np.mean(agreeing) > 0.5


def test_voices_with_and_without_clips_in_one_batch_equal_the_cpus() -> None:
    config = small_config()
    codes = np.random.default_rng(3).integers(1, 90, (40, config.codebooks)).astype(np.int16)
    vera = VoicePrefix("vera", (PromptSegment(0, "A clip.", codes),))
    utterances = [
        (slot, replace(utterance(text, GREEDY), prefix=prefix))
        for slot, (text, prefix) in enumerate(zip(TEXTS, (vera, None, vera, None), strict=True))
    ]
    expected = generate(make_runner("cpu", config=config), utterances)
    on_cuda = make_runner("cuda", config=config)
    for made in (generate(on_cuda, utterances), generate(on_cuda, utterances)):  # then cached
        for row, other in zip(made, expected, strict=True):
            np.testing.assert_array_equal(codes_of(row), codes_of(other))


@pytest.mark.parametrize("head", [AlignmentHead(0, 5), AlignmentHead(1, 2)], ids=str)
def test_frames_have_the_attended_character_of_the_cpu_and_the_codes_without_it(
    on_cuda: TorchRunner, head: AlignmentHead
) -> None:
    config = small_config()
    on_cpu, runner = (make_runner(device, config=config, head=head) for device in ("cpu", "cuda"))
    codes = np.random.default_rng(3).integers(1, 90, (20, config.codebooks)).astype(np.int16)
    vera = VoicePrefix("vera", (PromptSegment(0, "A clip.", codes),))
    texts = ("x y " * 36, *TEXTS[:3])  # the first is longer than a block of the kernel
    utterances = [(slot, utterance(text, GREEDY)) for slot, text in enumerate(texts)]
    utterances[1] = (1, replace(utterances[1][1], prefix=vera))
    moved = [(slot, utterances[slot - 1][1]) for slot in (2, 0, 1)]
    for batch in (utterances, moved):  # each in a fresh slot, then in one that had another text
        expected, made, unread = (generate(each, batch, 20) for each in (on_cpu, runner, on_cuda))
        for row, other, without in zip(made, expected, unread, strict=True):
            read = [frame.attended_char for frame in row]
            assert read == [frame.attended_char for frame in other]
            assert None not in read
            np.testing.assert_array_equal(codes_of(row), codes_of(without))
            np.testing.assert_array_equal(pcm_of(row), pcm_of(without))
            assert {frame.attended_char for frame in without} == {None}
