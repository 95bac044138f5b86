"""The head that reads along is found, and frames tell where it looked."""

import numpy as np
import pytest

from csm_trio.config import EngineConfig
from csm_trio.engine.alignment_head import find_alignment_head, path_share
from csm_trio.engine.load import LoadedModel, load_model, warm_runner
from csm_trio.engine.utterance import Frame, Sampling, Utterance

TEXT = "Please hold the line, and I will be with you."


@pytest.fixture(scope="module")
def embedded() -> LoadedModel:
    return load_model(EngineConfig(device="cpu"))


def spoken(loaded: LoadedModel, text: str, *, company: bool = False) -> list[Frame]:
    runner = warm_runner(loaded, 2)
    utterance = Utterance(text, 1, 80, Sampling(seed=3))
    runner.open([(1, utterance)])
    if company:
        runner.open([(0, Utterance("Someone else is speaking too, at length.", 2, 80))])
    runner.prefill_all()
    frames = []
    while (frame := runner.step([1, 0] if company else [1])[0]) is not None:
        frames.append(frame)
    return frames


def test_the_embedded_voice_has_a_head_that_reads_along(embedded: LoadedModel) -> None:
    assert find_alignment_head(
        embedded.model, embedded.codec, embedded.tokenizer, embedded.placement.dtype
    )


def test_frames_tell_where_it_looked(embedded: LoadedModel) -> None:
    places = [frame.attended_char for frame in spoken(embedded, TEXT)]
    assert all(place is not None and 0 <= place <= len(TEXT) for place in places)
    looked = np.array(places, dtype=float)
    assert looked[0] < 5
    assert looked.max() > len(TEXT) - 5
    assert np.mean(np.diff(looked) >= 0) > 0.8


def test_where_it_looks_does_not_depend_on_who_else_speaks(embedded: LoadedModel) -> None:
    alone, together = spoken(embedded, TEXT), spoken(embedded, TEXT, company=True)
    assert [frame.attended_char for frame in alone] == [frame.attended_char for frame in together]


def test_a_diagonal_is_a_path_and_scattered_attention_is_none() -> None:
    along = np.full((40, 20), 0.01)
    along[np.arange(40), np.arange(40) // 2] = 0.8
    assert path_share(along) == pytest.approx(0.8, rel=0.05)
    assert path_share(along[::-1]) < 0.05
    assert path_share(np.full((40, 20), 0.05)) == pytest.approx(0.05, rel=0.05)
