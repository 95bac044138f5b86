"""Text normalization of each pair of written and spoken text, class by class."""

import pytest

from csm_trio.text.duration import longest_speech_s
from csm_trio.text.normalization.normalize import normalize
from data.normalization_pairs import WRITTEN_AND_SPOKEN

CASES = [
    pytest.param(written, spoken, id=f"{kind}: {written}")
    for kind, cases in WRITTEN_AND_SPOKEN.items()
    for written, spoken in cases
]
ORDINARY_CHARS_PER_S = 15


@pytest.mark.parametrize(("written", "spoken"), CASES)
def test_written_text_becomes_its_spoken_form(written: str, spoken: str) -> None:
    assert normalize(written).text == spoken
    assert normalize(written, "on").text == spoken


@pytest.mark.parametrize(("written", "spoken"), CASES)
def test_spoken_text_is_not_changed_again(written: str, spoken: str) -> None:
    assert normalize(spoken).text == spoken


@pytest.mark.parametrize(("written", "spoken"), CASES)
def test_the_maximum_duration_fits_the_spoken_form(written: str, spoken: str) -> None:
    """The maximum duration fits the spoken text, also computed from the written one ("off")."""
    ordinary_s = len(spoken) / ORDINARY_CHARS_PER_S
    assert ordinary_s + 1 < longest_speech_s(spoken) < 4 * ordinary_s + 3
    assert longest_speech_s(normalize(written, "off").text) > ordinary_s
