"""The word error rate is an edit distance, and the test sentences have the stated form."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.sentences import CALL_SENTENCES, SENTENCES
from tools.word_error_rate import WordErrors, recognize, word_error_rate, words_of

# reference, recognized, errors, words
EXAMPLES = [
    ("Good morning, Sir!", "good morning sir", 0, 3),
    ("one two three", "one too three", 1, 3),
    ("one two three", "one three", 1, 3),
    ("one two three", "one two two three", 1, 3),
    ("one two three", "two three one", 2, 3),
    ("one two three", "", 3, 3),
    ("one", "a b c", 3, 1),
    ("It\N{RIGHT SINGLE QUOTATION MARK}s fine", "it's fine", 0, 2),
    ("well-known", "well known", 0, 2),
    ("", "", 0, 0),
]

words = st.lists(st.sampled_from("abcd"), max_size=8).map(" ".join)


@pytest.mark.parametrize(("reference", "recognized", "errors", "n_words"), EXAMPLES)
def test_errors_are_the_fewest_edits(
    reference: str, recognized: str, errors: int, n_words: int
) -> None:
    assert WordErrors.between(reference, recognized) == WordErrors(errors, n_words)


@given(words, words)
def test_the_distance_is_symmetric_and_bounded(left: str, right: str) -> None:
    errors = WordErrors.between(left, right).errors
    sizes = len(words_of(left)), len(words_of(right))
    assert errors == WordErrors.between(right, left).errors
    assert max(sizes) - min(sizes) <= errors <= max(sizes)
    assert (errors == 0) == (words_of(left) == words_of(right))


@given(words, words, words)
def test_the_distance_obeys_the_triangle_inequality(start: str, over: str, end: str) -> None:
    detour = WordErrors.between(start, over).errors + WordErrors.between(over, end).errors
    assert WordErrors.between(start, end).errors <= detour


def test_pooling_weighs_words_not_sentences() -> None:
    counts = [WordErrors.between("one", ""), WordErrors.between("a b c", "a b c")]
    assert WordErrors.pooled(counts) == WordErrors(1, 4)
    assert WordErrors.pooled(counts).rate == 0.25
    assert WordErrors.pooled([]).rate == 0.0


def test_the_rate_without_expected_words_is_zero_or_infinite() -> None:
    assert word_error_rate("", "") == 0.0
    assert word_error_rate("...", "hm") == float("inf")
    assert word_error_rate("one", "a b c") == 3.0


@pytest.mark.parametrize("n_samples", [0, 16_000])
def test_silence_has_no_words(n_samples: int) -> None:
    assert recognize(np.zeros(n_samples, dtype=np.int16), 24_000) == ""


def test_a_recording_does_not_influence_the_next() -> None:
    noise = np.random.default_rng(5).normal(0, 3000, 12_000).astype(np.int16)
    alone = recognize(noise, 24_000)
    recognize(noise[::-1] // 50, 16_000)
    assert recognize(noise, 24_000) == alone


def test_twenty_sentences_of_a_phone_call_without_digits() -> None:
    assert len(set(SENTENCES)) == 20
    for sentence in SENTENCES:
        assert 5 <= len(words_of(sentence)) <= 14
        assert sentence[0].isupper()
        assert sentence[-1] in ".?"
        assert not any(char.isdigit() for char in sentence)


def test_two_hundred_sentences_begin_with_the_twenty() -> None:
    assert len(set(CALL_SENTENCES)) == 200
    assert CALL_SENTENCES[:20] == SENTENCES
    for sentence in CALL_SENTENCES:
        assert re.fullmatch(r"[A-Z][A-Za-z ,.;:?!]+[.?!]", sentence)
