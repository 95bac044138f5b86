"""The alignment error is measured correctly, and is small for synthesized speech."""

import numpy as np
import pytest

from csm_trio.config import EngineConfig
from csm_trio.engine.load import load_runner
from data.sentences import VARIED_SENTENCES
from tools import alignment_error

SPEAKER = 1


@pytest.fixture(scope="module")
def speeches() -> list[alignment_error.Speech]:
    runner = load_runner(EngineConfig(device="cpu", pool_size=1))
    texts = [text for text in VARIED_SENTENCES if len(text.split()) in (9, 10)][:6]
    return alignment_error.synthesize_sentences(runner, texts, speaker_id=SPEAKER, seed=7)


def mean_error_ms(speeches: list[alignment_error.Speech], align: alignment_error.Align) -> float:
    return float(
        np.mean([abs(ms) for one in speeches for ms in alignment_error.errors_ms(one, align)])
    )


def test_the_reference_finds_every_word_in_order(speeches: list[alignment_error.Speech]) -> None:
    assert len(speeches) >= 5
    for one in speeches:
        assert len(one.word_starts_ms) == len(one.text.split())
        assert one.word_starts_ms == sorted(one.word_starts_ms)
        assert 0 <= one.word_starts_ms[0] < one.word_starts_ms[-1] < one.length_ms


def test_delivered_alignments_have_a_smaller_error_than_even_spacing(
    speeches: list[alignment_error.Speech],
) -> None:
    uniform = mean_error_ms(speeches, alignment_error.uniform)
    audio_only = mean_error_ms(speeches, alignment_error.Delivered(attended_chars=False))
    delivered = mean_error_ms(speeches, alignment_error.Delivered(attended_chars=True))
    assert audio_only < 0.75 * uniform
    assert delivered < 0.5 * uniform
    assert delivered < 100


def test_a_positive_error_is_late() -> None:
    speech = alignment_error.Speech("one two", "0", [], [0.0, 500.0])
    assert alignment_error.errors_ms(speech, lambda _: [10.0 * at for at in range(7)]) == [0, -460]
