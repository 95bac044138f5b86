"""The sounds expected for a spelling."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.alignment.phonetics import PhoneClass, units_of


@given(st.text(max_size=200))
def test_units_cover_the_text_in_order(text: str) -> None:
    units = units_of(text)
    assert (units[0].start, units[-1].end) == (0, len(text))
    assert all(before.end == after.start for before, after in pairwise(units))
    assert all(unit.duration_ms > 0 and 0 <= unit.skip_probability < 1 for unit in units)
    assert units[0].phone_class is units[-1].phone_class is PhoneClass.PAUSE


@pytest.mark.parametrize(
    ("text", "sounds"),
    [
        ("sheep", "SIBILANT VOWEL STOP"),
        ("though", "FRICATIVE VOWEL SONORANT"),
        ("make", "SONORANT VOWEL STOP"),
        ("the", "FRICATIVE VOWEL"),
        ("city", "SIBILANT VOWEL STOP VOWEL"),
        ("yes", "SONORANT VOWEL SIBILANT"),
        ("é", "VOWEL"),
        ("a b", "VOWEL PAUSE STOP"),
        ("USB", "VOWEL VOWEL VOWEL"),
        ("42", "VOWEL VOWEL"),
        ("好", "VOWEL"),
        ("", ""),
    ],
)
def test_sounds_of_a_spelling(text: str, sounds: str) -> None:
    assert [unit.phone_class.name for unit in units_of(text)[1:-1]] == sounds.split()


def test_a_pause_is_expected_at_a_comma_and_not_at_a_space() -> None:
    spaced, paused = (units_of(text)[2] for text in ("a b", "a, b"))
    assert spaced.skip_probability > 0.5 > paused.skip_probability


def test_sounds_at_the_end_of_a_phrase_are_longer() -> None:
    inside, last = (units_of(text)[2].duration_ms for text in ("no one knows", "no, one knows"))
    assert last > inside
