"""Where a recording that is too long is cut: at a pause, and after a sentence."""

import numpy as np
import pytest

from csm_trio.audio.clip_cut import find_cut
from csm_trio.audio.speech_activity import SpeechActivity
from support.speech_like import RATE_HZ, silence, speech

LENGTHS_S = [5.0, 2.0, 7.0, 3.0, 8.0, 6.0, 4.0]


def measured(lengths_s: list[float], pauses_s: list[float]) -> SpeechActivity:
    parts = []
    for length_s, pause_s in zip(lengths_s, [*pauses_s, 0.0], strict=True):
        parts += [speech(length_s), silence(pause_s)]
    return SpeechActivity.measure(np.concatenate(parts).astype(np.float32), RATE_HZ)


@pytest.mark.parametrize("pace", [0.7, 1.0, 1.6])
def test_the_last_sentence_end_in_time_is_found_at_any_pace(pace: float) -> None:
    activity = measured(LENGTHS_S, [0.4] * 6)
    found = find_cut(activity, [length_s * pace for length_s in LENGTHS_S], 30.0)
    assert found is not None
    n_frames, n_sentences = found
    assert n_sentences == 5
    assert n_frames == pytest.approx(100 * (25 + 4 * 0.4) + 15, abs=5)


def test_longer_pauses_at_commas_in_the_wrong_places_do_not_mislead() -> None:
    # Each sentence of 6 s has a pause after 2 s as long as the one at its end.
    activity = measured([2.0, 4.0] * 6, [0.5] * 11)
    found = find_cut(activity, [6.0] * 6, 30.0)
    assert found is not None
    assert found[1] == 4
    assert found[0] == pytest.approx(100 * (24 + 7 * 0.5) + 15, abs=5)


def test_sentences_spoken_at_an_uneven_pace_are_found() -> None:
    activity = measured(LENGTHS_S, [0.4] * 6)
    uneven = np.array([1.2, 0.85, 1.1, 0.9, 1.15, 0.85, 1.0])
    found = find_cut(activity, list(np.array(LENGTHS_S) * uneven), 30.0)
    assert found is not None
    assert found[1] == 5


def test_sentences_run_together_are_kept_together() -> None:
    # No pause between the second and the third.
    activity = measured([8.0, 12.0, 6.0, 10.0], [0.4] * 3)
    found = find_cut(activity, [8.0, 6.0, 6.0, 6.0, 10.0], 24.0)
    assert found is not None
    assert found[1] == 3
    assert found[0] == pytest.approx(100 * 20.4 + 15, abs=5)


def test_nothing_is_found_without_a_pause_in_time_or_with_one_sentence() -> None:
    assert find_cut(measured([35.0, 5.0], [0.4]), [35.0, 5.0], 30.0) is None
    assert find_cut(measured([20.0, 20.0], [0.4]), [40.0], 30.0) is None
    assert find_cut(measured([4.0, 36.0], [0.6]), [20.0, 20.0], 30.0) is None
    assert find_cut(measured([40.0], []), [20.0, 20.0], 30.0) is None


def test_hundreds_of_short_sentences_and_pauses_take_bounded_work() -> None:
    activity = SpeechActivity(np.tile([0.1] * 20 + [0.0] * 20, 300))
    found = find_cut(activity, [0.05] * 1_000, 30.0)
    assert found is None or found[0] <= 3_000
