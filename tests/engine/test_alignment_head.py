"""The alignment head is found, and frames have its attended character."""

import logging

import numpy as np
import pytest
import torch

from csm_trio.config import EngineConfig
from csm_trio.engine import load
from csm_trio.engine.alignment_head import find_alignment_head, path_share
from csm_trio.engine.load import LoadedModel, load_model, warm_runner
from csm_trio.engine.utterance import Frame, Sampling, Utterance

TEXT = "Please hold the line, and I will be with you."


@pytest.fixture(scope="module")
def embedded() -> LoadedModel:
    return load_model(EngineConfig(device="cpu"))


def generate(loaded: LoadedModel, text: str, *, company: bool = False) -> list[Frame]:
    runner = warm_runner(loaded, 2)
    utterance = Utterance(text, 1, 80, Sampling(seed=3))
    runner.open([(1, utterance)])
    if company:
        runner.open([(0, Utterance("Someone else is speaking too, at length.", 2, 80))])
    runner.prefill_all()
    frames = []
    while isinstance(frame := runner.step([1, 0] if company else [1])[0], Frame):
        frames.append(frame)
    return frames


def test_the_embedded_voice_has_an_alignment_head(embedded: LoadedModel) -> None:
    assert find_alignment_head(
        embedded.model, embedded.codec, embedded.tokenizer, embedded.placement.dtype
    )


def test_frames_have_the_attended_character(embedded: LoadedModel) -> None:
    positions = [frame.attended_char for frame in generate(embedded, TEXT)]
    assert all(char is not None and 0 <= char <= len(TEXT) for char in positions)
    attended = np.array(positions, dtype=float)
    assert attended[0] < 5
    assert attended.max() > len(TEXT) - 5
    assert np.mean(np.diff(attended) >= 0) > 0.8


def test_the_attended_character_does_not_depend_on_other_rows(embedded: LoadedModel) -> None:
    alone, together = generate(embedded, TEXT), generate(embedded, TEXT, company=True)
    assert [frame.attended_char for frame in alone] == [frame.attended_char for frame in together]


def test_a_diagonal_is_a_path_and_scattered_attention_is_not() -> None:
    diagonal = np.full((40, 20), 0.01)
    diagonal[np.arange(40), np.arange(40) // 2] = 0.8
    assert path_share(diagonal) == pytest.approx(0.8, rel=0.05)
    assert path_share(diagonal[::-1]) < 0.05
    assert path_share(np.full((40, 20), 0.05)) == pytest.approx(0.05, rel=0.05)


def test_a_row_without_text_has_no_attended_character(embedded: LoadedModel) -> None:
    runner = warm_runner(embedded, 1)
    runner.open([(0, Utterance("", 1, 3))])
    runner.prefill_all()
    made = [runner.step([0])[0] for _ in range(3)]
    assert [frame.attended_char for frame in made if isinstance(frame, Frame)] == [None] * 3


def test_a_search_that_fails_is_a_warning_and_the_server_starts(
    embedded: LoadedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(load, "find_alignment_head", fail)
    with caplog.at_level(logging.WARNING, logger="csm_trio"):
        frames = generate(embedded, "Yes.")
    assert {frame.attended_char for frame in frames} == {None}
    (warning,) = caplog.messages
    assert warning.startswith("no alignment head: the search failed on cpu")
    assert warning.endswith("CUDA out of memory.")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_the_embedded_voice_has_an_alignment_head_on_cuda(dtype: str) -> None:
    loaded = load_model(EngineConfig(device="cuda", dtype=dtype))
    assert find_alignment_head(loaded.model, loaded.codec, loaded.tokenizer, loaded.placement.dtype)
    positions = [frame.attended_char for frame in generate(loaded, TEXT)]
    attended = np.array(positions, dtype=float)
    assert attended.min() < 5
    assert attended.max() > len(TEXT) - 5
    assert np.mean(np.diff(attended) >= 0) > 0.8
