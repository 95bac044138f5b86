"""The fused step in Triton's interpreter on a CPU, against the step in torch operations.

The captured prefill comes before it, so that the whole path of a CUDA device runs, without CUDA: a
double replaces the graphs. It shows what the kernels compute, not how a GPU compiles them.
`test_interpreted_kernels.py` runs this file in a process of its own: Triton decides at its import
whether it interprets.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

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
from csm_trio.engine.utterance import Frame, StepResult
from csm_trio.errors import NotFinite
from csm_trio.model.attention import AlignmentHead, Prefix
from csm_trio.model.checkpoint.random_weights import random_weights
from csm_trio.model.checkpoint.read_config import csm_1b_config
from csm_trio.model.config import CSMConfig, SamplingParams
from csm_trio.model.csm import CSM
from csm_trio.model.kernels import alignment
from csm_trio.model.mimi.decoder import MimiDecoder
from csm_trio.timebase import FRAME_SAMPLES
from support.rerun_graphs import rerun_graphs

# numpy computes the kernels: a sigmoid of a large negative number is 1 / inf, 0 times inf is NaN.
pytestmark = [
    pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]

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


@dataclass(frozen=True)
class Text:
    """A prompt whose last `tokens` positions but one are text, behind a prefix of the cache."""

    slot: int
    positions: int
    tokens: int
    prefix: int = 0

    def pending(self, config: CSMConfig, slots: Slots) -> PendingPrefill:
        """Write the prefix to the slot, and return the rest of the prompt."""
        made = np.random.default_rng(100 * self.slot + self.tokens)
        shape = slots.kv.keys[:, self.slot, :, : self.prefix].shape
        keys, values = (torch.from_numpy(made.normal(size=shape)) for _ in range(2))
        slots.kv.copy_in(self.slot, Prefix(keys.to(slots.kv.keys), values.to(slots.kv.keys)))
        tokens = made.integers(0, config.text_vocab_size, (self.positions, CODEBOOKS + 1))
        prompt = Prompt(tokens, made.random(tokens.shape) < 0.7)
        opening = Opening(
            self.slot, self.prefix + self.positions - 1, (GREEDY, GREEDY), seed=self.slot,
            char_positions=[token + 0.5 for token in range(self.tokens)],
        )  # fmt: skip
        return PendingPrefill(opening, prompt, self.prefix)


# Several blocks behind a prefix, two blocks, one token, none; then two slots are used again.
TEXTS = [Text(0, 40, 37, prefix=9), Text(1, 27, 20), Text(2, 9, 1), Text(3, 5, 0)]
LATER_TEXTS = [Text(1, 6, 3), Text(3, 30, 28)]
TEXT_SLOTS = len(TEXTS)


def attend_to_texts(
    config: CSMConfig, slots: Slots, prefill: Prefill, step: FrameStep
) -> list[Frame]:
    """Generate frames of all texts, then of the later ones beside others in another order."""
    frames: list[Frame] = []
    for texts, order in ((TEXTS, [0, 1, 2, 3]), (LATER_TEXTS, [3, 0, 1])):
        for text in texts:
            slots.close(text.slot)
        waiting: Sequence[PendingPrefill] = [text.pending(config, slots) for text in texts]
        while waiting:
            done = prefill.advance(waiting)
            waiting = [one for one in waiting if one not in done]
        for _ in range(FRAMES):
            made = step.run(order)
            frames += [frame for frame in made if isinstance(frame, Frame)]
    assert len(frames) == FRAMES * (4 + 3), "no row may end"
    return frames


@pytest.fixture
def without_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode to silence: the codec takes most of the time, and comes after the alignment head."""

    def decode(self: MimiDecoder, codes: torch.Tensor, *args: object, **_: object) -> torch.Tensor:
        return torch.zeros(len(codes), FRAME_SAMPLES)

    monkeypatch.setattr(MimiDecoder, "decode", decode)


@pytest.mark.usefixtures("without_codec")
@pytest.mark.parametrize(
    ("dtype", "heads", "head"),
    [
        (F32, 6, AlignmentHead(1, 4)),
        (F16, 6, AlignmentHead(0, 2)),
        (F32, 2, AlignmentHead(0, 1)),
    ],
    ids=["f32", "f16", "f32 without groups"],
)
def test_frames_have_the_attended_character_of_the_step_in_torch(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, heads: int, head: AlignmentHead
) -> None:
    monkeypatch.setattr(alignment, "_BLOCK", 16)
    monkeypatch.setattr(step_graphed, "buckets", lambda count: [count])
    config = small_config()
    config = replace(config, backbone=replace(config.backbone, heads=heads))
    model, codec = load(config, F32, F32)
    slots = Slots(config, TEXT_SLOTS, codec, device=CPU, dtype=F32)
    expected = attend_to_texts(
        config, slots, EagerPrefill(model, slots), EagerStep(model, codec, slots, head=head)
    )
    made = attend_to_texts(config, *graphed(config, *load(config, dtype, F32), head))
    read = [frame.attended_char for frame in made]
    assert read == [frame.attended_char for frame in expected]
    assert read[2:8:4] == [0.5, 0.5], "the one token"
    assert read[3:8:4] == [None, None], "no text"
    assert max(char for char in read if char is not None) > 16, "a token of another block"
    assert len(set(read)) > 6
    np.testing.assert_array_equal(codes_of(made), codes_of(expected))


@pytest.mark.usefixtures("without_codec")
def test_without_a_head_the_codes_are_the_same_and_no_character_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step_graphed, "buckets", lambda count: [count])
    config = small_config()
    model, codec = load(config, F32, F32)
    read, unread = (
        attend_to_texts(config, *graphed(config, model, codec, head))
        for head in (AlignmentHead(1, 0), None)
    )
    np.testing.assert_array_equal(codes_of(read), codes_of(unread))
    assert {frame.attended_char for frame in unread} == {None}


@pytest.mark.usefixtures("without_codec")
@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["nan", "inf"])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_row_that_is_not_finite_fails_alone_and_its_slot_is_as_new(
    monkeypatch: pytest.MonkeyPatch, sampling: SamplingParams, value: float
) -> None:
    monkeypatch.setattr(step_graphed, "buckets", lambda count: [count])
    config = small_config()
    slots, prefill, step = graphed(config, *load(config, F32, F32), None)

    def begin() -> None:
        prefill.advance([pending(config, slot, sampling) for slot in PROMPTS])

    begin()
    expected = [step.run([0, 1]) for _ in range(FRAMES)]
    begin()
    slots.state.inputs[1, 5] = value
    beside, failed = step.run([0, 1])
    assert isinstance(failed, NotFinite)
    for tensor in (slots.kv.keys[:, 1], slots.kv.values[:, 1], slots.state.inputs[1]):
        assert not tensor.any()
    slots.close(1)
    made = [beside, *step.run([0])]
    begin()
    again = [step.run([0, 1]) for _ in range(FRAMES)]
    for one, other in (
        (made, [row for row, _ in expected]),
        ([row for _, row in again], [row for _, row in expected]),
    ):
        np.testing.assert_array_equal(codes_of(speech(one)), codes_of(speech(other)))


def speech(results: Sequence[StepResult]) -> list[Frame]:
    frames = [result for result in results if isinstance(result, Frame)]
    assert len(frames) == len(results) == FRAMES
    return frames


def graphed(
    config: CSMConfig, model: CSM, codec: MimiDecoder, head: AlignmentHead | None
) -> tuple[Slots, GraphedPrefill, GraphedStep]:
    """Capture the prefill and the step of a CUDA device, over slots of their own."""
    slots = Slots(config, TEXT_SLOTS, codec, device=CPU, dtype=model.text_embedding.dtype)
    prefill, step = (
        GraphedPrefill(model, slots),
        GraphedStep(config, model, codec, slots, head=head),
    )
    prefill.capture()
    step.capture()
    return slots, prefill, step
