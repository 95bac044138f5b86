"""The torch runner against transformers, and rows alone against the same rows in a batch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from csm_trio.config import EngineConfig
from csm_trio.engine.load import load_runner
from csm_trio.engine.placement import choose_placement
from csm_trio.engine.prompt import TextTokenizer, build_prompt
from csm_trio.engine.runner import TorchRunner
from csm_trio.engine.slots import resolve_sampling
from csm_trio.engine.utterance import (
    Frame,
    PromptSegment,
    Sampling,
    StepResult,
    Utterance,
    VoicePrefix,
)
from csm_trio.errors import InvalidRequest, SpeechError, StartupError, TextTooLong
from csm_trio.model.config import SamplingDefaults, SamplingParams
from support.tiny_csm import CODEBOOKS, load_reference, write_tiny_checkpoint

GREEDY = Sampling(temperature=0)
TEXTS = ("Hello there, how are you?", "A", "Numbers: 1 2 3, and then some more of them.")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Any:
    return load_reference(checkpoint)


@pytest.fixture
def runner(checkpoint: Path) -> TorchRunner:
    return load_runner(EngineConfig(weights_path=checkpoint, device="cpu", pool_size=3))


def utterance(
    text: str, *, sampling: Sampling = GREEDY, history: tuple[PromptSegment, ...] = ()
) -> Utterance:
    return Utterance(text, 0, 64, sampling, history)


def open_slot(runner: TorchRunner, slot: int, subject: Utterance) -> int:
    (max_frames,) = runner.open([(slot, subject)])
    if isinstance(max_frames, SpeechError):
        raise max_frames
    runner.prefill_all()
    return max_frames


def generate_alone(
    runner: TorchRunner, subject: Utterance, frames: int, *, slot: int = 0
) -> list[Frame]:
    open_slot(runner, slot, subject)
    made = [runner.step([slot])[0] for _ in range(frames)]
    runner.close(slot)
    return [frame for frame in made if isinstance(frame, Frame)]


def codes_of(frames: Sequence[Frame]) -> NDArray[np.int16]:
    return np.stack([frame.codes for frame in frames])


def pcm_of(frames: Sequence[Frame]) -> NDArray[np.int16]:
    return np.concatenate([frame.pcm for frame in frames])


@pytest.mark.parametrize("text", TEXTS)
def test_greedy_frames_equal_transformers_generate(
    checkpoint: Path, reference: Any, runner: TorchRunner, text: str
) -> None:
    tokenizer = TextTokenizer.from_file(checkpoint / "tokenizer.json")
    ids = torch.tensor([tokenizer.encode(text, speaker_id=0)])
    with torch.inference_mode():
        expected = reference.generate(
            input_ids=ids, max_new_tokens=40, do_sample=False, depth_decoder_do_sample=False
        )[0].numpy()
    made = codes_of(generate_alone(runner, utterance(text), 40))
    assert len(np.unique(made, axis=0)) > 5, "the oracle's frames must differ"
    np.testing.assert_array_equal(made, expected[: len(made)])
    assert len(made) == 40


def test_audio_equals_the_reference_codec_on_the_same_codes(
    reference: Any, runner: TorchRunner
) -> None:
    frames = generate_alone(runner, utterance(TEXTS[0]), 40)
    codes = torch.from_numpy(codes_of(frames).T.astype(np.int64))[None]  # [1, codebooks, frames]
    with torch.inference_mode():
        expected = reference.codec_model.decode(codes).audio_values[0, 0].numpy()
    expected = np.round(np.clip(expected, -1, 1) * 32767)
    assert np.abs(expected).max() > 100
    np.testing.assert_allclose(pcm_of(frames), expected, atol=1.0)


def test_a_prompt_segment_affects_codes_as_in_transformers(
    checkpoint: Path, reference: Any, runner: TorchRunner
) -> None:
    segment = PromptSegment(0, "Before.", codes_of(generate_alone(runner, utterance("Before."), 9)))
    tokenizer = TextTokenizer.from_file(checkpoint / "tokenizer.json")
    prompt = build_prompt(
        tokenizer, [segment], speaker_id=0, text="After.", codebooks=CODEBOOKS, max_positions=256
    )
    rows = torch.from_numpy(prompt.tokens)[None]
    mask = torch.from_numpy(prompt.mask)[0:, :, None][None]
    backbone = reference.backbone_model
    with torch.inference_mode():
        offsets = torch.arange(CODEBOOKS) * reference.config.vocab_size
        audio = backbone.embed_tokens.embed_audio_tokens(rows[..., :-1] + offsets)
        text = reference.embed_text_tokens(rows[..., -1:])
        embedded = (torch.cat((audio, text), dim=2) * mask).sum(dim=2)
        hidden = backbone(inputs_embeds=embedded).last_hidden_state[0, -1]
        expected = reference.lm_head(hidden).argmax()
    frames = generate_alone(runner, utterance("After.", history=(segment,)), 1)
    assert frames[0].codes[0] == expected
    without = generate_alone(runner, utterance("After."), 8)
    assert (
        codes_of(generate_alone(runner, utterance("After.", history=(segment,)), 8))
        != codes_of(without)
    ).any()


def test_a_long_prompt_is_prefilled_in_chunks_and_completely(
    checkpoint: Path, reference: Any, runner: TorchRunner
) -> None:
    text = "It was a long day. " * 10
    tokenizer = TextTokenizer.from_file(checkpoint / "tokenizer.json")
    ids = torch.tensor([tokenizer.encode(text, speaker_id=0)])
    with torch.inference_mode():
        expected = reference.generate(
            input_ids=ids, max_new_tokens=12, do_sample=False, depth_decoder_do_sample=False
        )[0].numpy()
    runner.open([(0, utterance("A")), (1, Utterance(text, 0, 12, GREEDY))])
    chunks = [runner.prefill() for _ in range(5)]
    assert chunks == [[0], [], [], [], [1]]  # 194 rows before the last, 64 at a time
    assert runner.step([0])[0] is not None
    made = [runner.step([1])[0] for _ in range(12)]
    np.testing.assert_array_equal(
        codes_of([frame for frame in made if isinstance(frame, Frame)]), expected
    )


def test_a_slot_closed_during_prefill_takes_the_next_utterance(runner: TorchRunner) -> None:
    alone = codes_of(generate_alone(runner, utterance(TEXTS[0]), 8))
    runner.open([(0, Utterance("x" * 150, 0, 12, GREEDY))])
    assert runner.prefill() == []
    runner.close(0)
    np.testing.assert_array_equal(codes_of(generate_alone(runner, utterance(TEXTS[0]), 8)), alone)


def prefix_of(*segments: PromptSegment, key: str = "vera") -> VoicePrefix:
    return VoicePrefix(key, segments)


def test_a_voices_clips_equal_prompt_segments_before_the_history(runner: TorchRunner) -> None:
    clip = PromptSegment(0, "A clip.", codes_of(generate_alone(runner, utterance("A clip."), 20)))
    past = PromptSegment(0, "Then.", codes_of(generate_alone(runner, utterance("Then."), 5)))
    with_clip = codes_of(generate_alone(runner, utterance(TEXTS[0], history=(clip, past)), 20))
    without_clip = codes_of(generate_alone(runner, utterance(TEXTS[0], history=(past,)), 20))
    subject = Utterance(TEXTS[0], 0, 64, GREEDY, (past,), prefix=prefix_of(clip))
    for slot in (0, 1, 0):  # the first one fills the prefix cache
        made = codes_of(generate_alone(runner, subject, 20, slot=slot))
        np.testing.assert_array_equal(made, with_clip)
    assert (with_clip != without_clip).any()
    plain = codes_of(generate_alone(runner, utterance(TEXTS[0], history=(past,)), 20))
    np.testing.assert_array_equal(plain, without_clip)


def test_clips_leave_positions_for_speech_and_count_in_max_frames(runner: TorchRunner) -> None:
    clip = PromptSegment(0, "Clip.", np.ones((100, CODEBOOKS), np.int16))
    # 256 positions: 111 of the clip (BOS [0]Clip. EOS, frames, end), 6 of BOS [0]A EOS.
    for _ in range(2):
        subject = Utterance("A", 0, 10_000, GREEDY, prefix=prefix_of(clip))
        (max_frames,) = runner.open([(0, subject)])
        assert max_frames == 256 - (10 + 101) - 6 + 1
        runner.prefill_all()
        assert all(runner.step([0])[0] is not None for _ in range(max_frames))
        runner.close(0)


def test_clips_that_leave_too_few_positions_fail_their_utterance_alone(
    runner: TorchRunner,
) -> None:
    clip = PromptSegment(0, "Clip.", np.ones((120, CODEBOOKS), np.int16))
    subject = Utterance("A", 0, 10, GREEDY, prefix=prefix_of(clip))
    error, frames = runner.open([(0, subject), (1, utterance("A"))])
    assert isinstance(error, InvalidRequest)
    assert "may take 128" in error.message
    assert frames == 64


def test_the_clips_of_a_new_voice_are_prefilled_a_chunk_between_two_steps(
    runner: TorchRunner,
) -> None:
    alone = codes_of(generate_alone(runner, utterance(TEXTS[0]), 12))
    clip = PromptSegment(0, "Clip.", np.ones((110, CODEBOOKS), np.int16))
    new = Utterance(TEXTS[1], 0, 64, GREEDY, prefix=prefix_of(clip))
    open_slot(runner, 0, utterance(TEXTS[0]))
    made = [runner.step([0])[0]]
    runner.open([(1, new)])
    chunks = 0
    begun: list[int] = []
    while not begun:
        begun = runner.prefill()
        chunks += 1
        made.append(runner.step([0])[0])
    assert begun == [1]
    assert chunks == 3  # 121 positions of the clip in chunks of 64, then the text
    while len(made) < 12:
        made.append(runner.step([0])[0])
    np.testing.assert_array_equal(
        codes_of([frame for frame in made if isinstance(frame, Frame)]), alone
    )


def test_a_slot_closed_while_its_clips_are_prefilled_takes_the_next_utterance(
    runner: TorchRunner,
) -> None:
    alone = codes_of(generate_alone(runner, utterance(TEXTS[0]), 8))
    clip = PromptSegment(0, "Clip.", np.ones((110, CODEBOOKS), np.int16))
    runner.open([(0, Utterance("A", 0, 12, GREEDY, prefix=prefix_of(clip)))])
    assert runner.prefill() == []
    runner.close(0)
    np.testing.assert_array_equal(codes_of(generate_alone(runner, utterance(TEXTS[0]), 8)), alone)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=0.9, top_k=20, seed=7)])
@pytest.mark.parametrize(
    ("dtype", "pool_size"), [("f32", 3), ("f32", 5), ("int8", 3), ("int8", 5), ("int4", 5)]
)
def test_a_row_alone_equals_the_row_in_a_batch_to_the_bit(
    checkpoint: Path, sampling: Sampling, dtype: str, pool_size: int
) -> None:
    runner = load_runner(
        EngineConfig(weights_path=checkpoint, device="cpu", dtype=dtype, pool_size=pool_size)
    )
    subject = utterance(TEXTS[0], sampling=sampling)
    alone = generate_alone(runner, subject, 30)

    # Other rows begin before it, begin and end during it; it runs in another slot.
    others = [utterance(text, sampling=Sampling(temperature=1.3, seed=3)) for text in TEXTS[1:]]
    open_slot(runner, 0, others[0])
    runner.step([0])
    open_slot(runner, 2, subject)
    accompanied: list[Frame] = []
    for step in range(30):
        if step == 10:
            open_slot(runner, 1, others[1])
        running = [0, 2] if step < 10 else [0, 1, 2] if step < 20 else [1, 2]
        frame = runner.step(running)[-1]
        assert isinstance(frame, Frame)
        accompanied.append(frame)
    np.testing.assert_array_equal(codes_of(accompanied), codes_of(alone))
    np.testing.assert_array_equal(pcm_of(accompanied), pcm_of(alone))


def test_the_embedded_voice_makes_equal_frames_in_any_slot_of_a_full_batch() -> None:
    runner = load_runner(EngineConfig(device="cpu", pool_size=5))
    subject = utterance(TEXTS[0], sampling=Sampling(seed=7))
    alone = generate_alone(runner, subject, 12, slot=1)
    for slot in range(5):
        open_slot(runner, slot, subject)
    made = [runner.step(range(5)) for _ in range(12)]
    for row in range(5):
        frames = [frame for step in made if isinstance(frame := step[row], Frame)]
        np.testing.assert_array_equal(codes_of(frames), codes_of(alone))
        np.testing.assert_array_equal(pcm_of(frames), pcm_of(alone))


@pytest.mark.parametrize(("dtype", "share"), [("int8", 0.5), ("int4", 0.4)])
def test_a_quantized_model_makes_nearly_the_first_frames_of_f32(dtype: str, share: float) -> None:
    def codes_with(dtype: str) -> NDArray[np.int16]:
        runner = load_runner(EngineConfig(device="cpu", dtype=dtype, pool_size=1))
        return np.stack([codes_of(generate_alone(runner, utterance(t), 4)) for t in TEXTS])

    exact, rounded = codes_with("f32"), codes_with(dtype)
    # One code that differs changes those that follow; by chance one in 512 is the same.
    assert (exact == rounded).mean() > share
    assert (exact[:, 0] == rounded[:, 0]).mean() > 0.8


@pytest.mark.parametrize("device", ["cuda", "mps"])
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_quantization_fails_on_other_devices_than_a_cpu(
    dtype: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(StartupError, match=f"--dtype {dtype} is for CPUs; on {device} take bf16"):
        load_runner(EngineConfig(device=device, dtype=dtype))


def test_int4_fails_where_torch_has_no_kernel_and_warns_without_avx_512(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = EngineConfig(device="cpu", dtype="int4")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert choose_placement(config).weights == "int4"
    assert "for AVX-512, and torch takes this CPU for AVX2: int8 may" in caplog.text
    monkeypatch.setattr("csm_trio.engine.placement.int4_products_work", lambda: False)
    with pytest.raises(StartupError, match="no products of 4-bit weights for this CPU; take int8"):
        load_runner(config)


def test_a_paused_row_continues_where_it_stopped(runner: TorchRunner) -> None:
    subject = utterance(TEXTS[0])
    alone = generate_alone(runner, subject, 12)
    open_slot(runner, 0, subject)
    open_slot(runner, 1, utterance(TEXTS[2]))
    paused: list[StepResult] = []
    for step in range(24):
        if step % 2:
            paused.append(runner.step([0, 1])[0])
        else:
            runner.step([1])
    made = [frame for frame in paused if isinstance(frame, Frame)]
    np.testing.assert_array_equal(pcm_of(made), pcm_of(alone))


def test_a_seed_determines_the_audio(runner: TorchRunner) -> None:
    def codes_with(seed: int | None) -> NDArray[np.int16]:
        sampling = Sampling(temperature=1.0, top_k=30, seed=seed)
        return codes_of(generate_alone(runner, utterance(TEXTS[0], sampling=sampling), 20))

    np.testing.assert_array_equal(codes_with(5), codes_with(5))
    assert (codes_with(5) != codes_with(6)).any()
    assert (codes_with(None) != codes_with(None)).any()


def test_top_k_one_is_greedy(runner: TorchRunner) -> None:
    greedy = codes_of(generate_alone(runner, utterance(TEXTS[0]), 10))
    top_1 = utterance(TEXTS[0], sampling=Sampling(temperature=1.5, top_k=1, seed=1))
    np.testing.assert_array_equal(codes_of(generate_alone(runner, top_1, 10)), greedy)


def test_sampled_codes_are_always_the_codecs(runner: TorchRunner) -> None:
    hot = utterance(TEXTS[0], sampling=Sampling(temperature=50.0, top_k=1000, seed=2))
    codes = codes_of(generate_alone(runner, hot, 60))
    assert codes.min() >= 0
    assert codes.max() == 31  # all of the codec's 32 ids are reached, and none of the 3 beyond


def test_max_frames_fit_in_the_kv_cache(runner: TorchRunner) -> None:
    text = "x" * 100
    max_frames = open_slot(runner, 0, Utterance(text, 0, 10_000, GREEDY))
    # 256 positions; the prompt is BOS [0] text EOS, and its last row is the first step's input.
    assert max_frames == 256 - (100 + 5) + 1
    made = [runner.step([0])[0] for _ in range(max_frames)]
    assert made[-1] is not None


def test_a_text_that_fills_the_kv_cache_fails(runner: TorchRunner) -> None:
    with pytest.raises(TextTooLong):
        open_slot(runner, 0, Utterance("x" * 300, 0, 10, GREEDY))
    assert generate_alone(runner, utterance("A"), 3)


SAMPLES_BOTH = SamplingDefaults(backbone=SamplingParams(0.9, 50), depth=SamplingParams(0.8, 40))
GREEDY_DEPTH = SamplingDefaults(backbone=SamplingParams(0.3, 50), depth=SamplingParams(0.0, 1))
NONE_SAMPLES = SamplingDefaults(backbone=SamplingParams(0.0, 1), depth=SamplingParams(0.0, 1))


@pytest.mark.parametrize(
    ("defaults", "sampling", "backbone", "depth"),
    [
        (SAMPLES_BOTH, Sampling(), SamplingParams(0.9, 50), SamplingParams(0.8, 40)),
        (SAMPLES_BOTH, Sampling(temperature=0.5), SamplingParams(0.5, 50), SamplingParams(0.5, 40)),
        (SAMPLES_BOTH, Sampling(top_k=9), SamplingParams(0.9, 9), SamplingParams(0.8, 9)),
        (
            SAMPLES_BOTH,
            Sampling(temperature_scale=0.5),
            SamplingParams(0.45, 50),
            SamplingParams(0.4, 40),
        ),
        (
            SAMPLES_BOTH,
            Sampling(temperature=0.7, temperature_scale=2),
            SamplingParams(0.7, 50),
            SamplingParams(0.7, 40),
        ),
        (
            GREEDY_DEPTH,
            Sampling(temperature_scale=2),
            SamplingParams(0.6, 50),
            SamplingParams(0, 1),
        ),
        (NONE_SAMPLES, Sampling(temperature_scale=1.3), SamplingParams(0, 1), SamplingParams(0, 1)),
        (SAMPLES_BOTH, Sampling(temperature=0), SamplingParams(0, 1), SamplingParams(0, 1)),
        (SAMPLES_BOTH, Sampling(top_k=1), SamplingParams(0, 1), SamplingParams(0, 1)),
        (GREEDY_DEPTH, Sampling(), SamplingParams(0.3, 50), SamplingParams(0, 1)),
        (
            GREEDY_DEPTH,
            Sampling(temperature=0.7, top_k=5),
            SamplingParams(0.7, 5),
            SamplingParams(0, 1),
        ),
        (NONE_SAMPLES, Sampling(), SamplingParams(0, 1), SamplingParams(0, 1)),
        (NONE_SAMPLES, Sampling(temperature=0.7), SamplingParams(0.7, 50), SamplingParams(0, 1)),
    ],
)
def test_sampling_parameters_replace_the_backbones_and_the_depths_only_if_it_samples(
    defaults: SamplingDefaults, sampling: Sampling, backbone: SamplingParams, depth: SamplingParams
) -> None:
    assert resolve_sampling(sampling, defaults) == (backbone, depth)
