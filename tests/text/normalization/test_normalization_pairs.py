"""What is written beside what is said of it, class by class."""

import pytest

from csm_trio.text.duration import longest_speech_s
from csm_trio.text.normalization.normalize import normalize
from data.normalization_pairs import WRITTEN_AND_SAID

CASES = [
    pytest.param(written, said, id=f"{kind}: {written}")
    for kind, cases in WRITTEN_AND_SAID.items()
    for written, said in cases
]
ORDINARY_CHARS_PER_S = 15


@pytest.mark.parametrize(("written", "said"), CASES)
def test_what_is_written_is_said(written: str, said: str) -> None:
    assert normalize(written) == said
    assert normalize(written, "on") == said


@pytest.mark.parametrize(("written", "said"), CASES)
def test_what_is_said_is_said_again_the_same(written: str, said: str) -> None:
    assert normalize(said) == said


@pytest.mark.parametrize(("written", "said"), CASES)
def test_what_is_said_has_time_enough_and_not_much_more(written: str, said: str) -> None:
    """The cap on speech stands on the spoken text, and still fits the written one ("off")."""
    ordinary_s = len(said) / ORDINARY_CHARS_PER_S
    assert ordinary_s + 1 < longest_speech_s(said) < 4 * ordinary_s + 3
    assert longest_speech_s(normalize(written, "off")) > ordinary_s
