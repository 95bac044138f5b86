"""The maximum duration of speech of a text."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.text.duration import longest_speech_s, split_points

ORDINARY_CHARS_PER_S = 15


@given(st.text(), st.text())
def test_more_text_never_has_a_shorter_maximum(text: str, more: str) -> None:
    assert longest_speech_s(text + more) >= longest_speech_s(text) >= 1.5


@pytest.mark.parametrize("text", ["Hi.", "No", "5", "I"])
def test_a_short_text_has_enough_time(text: str) -> None:
    assert 1.5 < longest_speech_s(text) < 3


@pytest.mark.parametrize(
    "text",
    [
        "The quick brown fox jumps over the lazy dog.",
        "Thank you for calling Green Valley Dental, my name is Anna, how can I help you today?",
        "I can see your order here; it left our warehouse this morning and should reach you soon.",
    ],
)
def test_an_ordinary_sentence_has_two_to_three_times_its_duration(text: str) -> None:
    assert 2 < longest_speech_s(text) * ORDINARY_CHARS_PER_S / len(text) < 3


@pytest.mark.parametrize(
    ("written", "aloud"),
    [
        ("777,777", "seven hundred seventy seven thousand seven hundred seventy seven"),
        ("$3.50", "three dollars and fifty cents"),
        ("USB", "you ess bee"),
        ("50%", "fifty percent"),
        ("a@b.org", "a at b dot org"),
        ("555-0123", "five five five, oh one two three"),
        ("&", "and"),
        ("你好", "nee how"),
        ("½", "a half"),
        ("€5", "five euros"),
    ],
)
def test_text_that_is_longer_spoken_than_written_has_enough_time(written: str, aloud: str) -> None:
    assert longest_speech_s(written) > 1 + len(aloud) / ORDINARY_CHARS_PER_S


def test_whitespace_takes_no_time_and_marks_take_less_than_words() -> None:
    assert longest_speech_s(" \n\t" * 100) == longest_speech_s("") == 1.5
    assert longest_speech_s("'quoted'") < longest_speech_s("quoted.")


def spaces_of(text: str) -> set[int]:
    return {at for at, char in enumerate(text) if char == " "}


@given(st.text(max_size=300), st.floats(0.5, 30))
def test_parts_cover_the_text_and_each_fits_the_limit(text: str, limit_s: float) -> None:
    parts = split_points(text, limit_s, spaces_of(text))
    assert (parts[0][0], parts[-1][1]) == (0, len(text))
    for (start, end), (later, _) in pairwise(parts):
        assert start < end
        assert later == end or (later == end + 1 and text[end] == " ")
    for start, end in parts:
        needs_s = 0.75 * (longest_speech_s(text[start:end]) - 1.5)
        assert needs_s <= limit_s + 1e-9 or end - start == 1


def test_a_long_sentence_is_split_at_a_clause_and_a_short_one_is_not() -> None:
    clauses = [
        "When you call us about the order that you placed last Tuesday,",
        "please have your number ready,",
        "so that we can find it at once,",
        "and remember that our lines open at nine.",
    ]
    text = " ".join(clauses)
    parts = [text[start:end] for start, end in split_points(text, 10, spaces_of(text))]
    assert parts == [" ".join(clauses[:2]), " ".join(clauses[2:])]
    assert split_points(text, 30, spaces_of(text)) == [(0, len(text))]
    assert split_points(text, math.inf, ()) == [(0, len(text))]
    unbroken = "word " * 60
    assert all(len(unbroken[start:end]) > 80 for start, end in split_points(unbroken, 10, ())[:-1])
