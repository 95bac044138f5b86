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


# One test a kind: thousands of tests would take longer to collect than to run.
KINDS = pytest.mark.parametrize("kind", WRITTEN_AND_SPOKEN)


@KINDS
def test_spoken_text_is_not_changed_again(kind: str) -> None:
    spoken = [spoken for _, spoken in WRITTEN_AND_SPOKEN[kind]]
    assert [normalize(text).text for text in spoken] == spoken


@KINDS
def test_the_maximum_duration_fits_the_spoken_form(kind: str) -> None:
    """The maximum duration fits the spoken text, also computed from the written one ("off")."""
    for written, spoken in WRITTEN_AND_SPOKEN[kind]:
        ordinary_s = len(spoken) / ORDINARY_CHARS_PER_S
        assert ordinary_s + 1 < longest_speech_s(spoken) < 4 * ordinary_s + 3, spoken
        assert longest_speech_s(normalize(written, "off").text) > ordinary_s, written
