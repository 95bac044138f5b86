"""Properties of the segmenter that hold for any text, and its cost."""

# ruff: noqa: RUF001 -- marks that look like ASCII ones are what these tables are about

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.text.segment import Segmenter

MARKS = '...|… |?! |! |. |。|！|: |, |; | — |—|- |\' |" |( |) |.) |." |** |🙂|好'
WORDS = "Dr. |p.m.|U.S. |No. |e.g. |3.5|1. |J. |I |The |etc. |Then |Monday |word|word |a@b.org|x"
SPACES_AND_JOINTS = "\n|\r\n|\n\n|\t|\xa0|\u2003|\u200d|e\u0301|\u0301|\ud83d"
FRAGMENTS = st.one_of(
    *(st.sampled_from(fragments.split("|")) for fragments in (MARKS, WORDS, SPACES_AND_JOINTS)),
    st.characters(),
)
TEXTS = st.lists(FRAGMENTS, max_size=60).map("".join)
CAPS = st.sampled_from([16, 40, 280])


class CountingSegmenter(Segmenter):
    """Counts the characters examined, and the maximum held."""

    looked_at = 0
    most_held = 0

    def _advance(self, char: str) -> None:
        self.looked_at += 1
        super()._advance(char)
        self.most_held = max(self.most_held, self.pending_chars)


def segment(text: str, max_chars: int = 280) -> list[str]:
    segmenter = Segmenter(max_chars)
    return segmenter.feed(text) + segmenter.flush()


def visible(text: str) -> str:
    return "".join(text.split())


@given(text=TEXTS, cuts=st.lists(st.integers(0, 200)), cap=CAPS)
def test_the_sentences_do_not_depend_on_the_deltas(text: str, cuts: list[int], cap: int) -> None:
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    segmenter = Segmenter(cap)
    sentences: list[str] = []
    for start, end in pairwise(bounds):
        sentences += segmenter.feed(text[start:end])
    assert sentences + segmenter.flush() == segment(text, cap)


@given(text=TEXTS, cap=CAPS)
def test_no_visible_character_is_lost_and_no_sentence_is_blank_or_too_long(
    text: str, cap: int
) -> None:
    sentences = segment(text, cap)
    assert visible("".join(sentences)) == visible(text)
    for sentence in sentences:
        assert sentence == sentence.strip() != ""
        assert len(sentence) <= cap


@given(text=TEXTS, hints=st.sets(st.integers(0, 100)), flushes=st.sets(st.integers(0, 100)))
def test_triggers_and_flushes_at_any_time_lose_nothing(
    text: str, hints: set[int], flushes: set[int]
) -> None:
    segmenter = Segmenter()
    sentences: list[str] = []
    for at, char in enumerate(text):
        sentences += segmenter.feed(char)
        sentences += segmenter.trigger() if at in hints else []
        sentences += segmenter.flush() if at in flushes else []
    sentences += segmenter.flush()
    assert visible("".join(sentences)) == visible(text)
    assert all(sentence.strip() for sentence in sentences)


@given(text=st.lists(FRAGMENTS, max_size=30).map(lambda fragments: "".join(fragments)[:280]))
def test_an_unspeakable_fragment_is_returned_alone_only_at_the_end(text: str) -> None:
    sentences = segment(text)
    assert all(any(char.isalnum() for char in sentence) for sentence in sentences[:-1])


@pytest.mark.parametrize(
    "text",
    [
        "." * 50_000,
        "a.b" * 20_000,
        "1" * 100_000,
        " " * 100_000,
        "x" * 1_000_000,
        "a. " * 20_000,
        "J. " * 20_000,
        "etc. (((((((( " * 5_000,
        "ab.Cd" * 20_000,
        "ab!Cd" * 20_000,
        "a!Abcdefghijklmnopqrst" * 5_000,
        "A" * 50_000 + "!A" * 20_000,
        "January 5, " * 10_000,
        "San Jose, CA " * 10_000,
        "12 Oak Elm St. " * 10_000,
        "Aa, Bb " * 10_000,
        "$5 million " * 10_000,
        "Dr. x, y " * 5_000,
        "p.m. Mondaymondaymonday " * 3_000,
        "ab, " + "Dr. " * 20_000,
        "ab; " + "- " * 20_000,
        "? " * 20_000,
        "a!" + "🙂" * 50_000,
        "e\u0301" * 20_000,
        "-\n" * 20_000,
        "(" * 50_000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_work_is_linear_and_memory_bounded_on_hostile_text(text: str) -> None:
    segmenter = CountingSegmenter()
    sentences = segmenter.feed(text) + segmenter.flush()
    assert visible("".join(sentences)) == visible(text)
    assert segmenter.looked_at <= 3 * len(text) + 1
    assert segmenter.most_held <= 281


@given(text=TEXTS, cap=CAPS)
def test_each_character_is_examined_a_bounded_number_of_times(text: str, cap: int) -> None:
    segmenter = CountingSegmenter(cap)
    segmenter.feed(text)
    segmenter.flush()
    assert segmenter.looked_at <= 4 * len(text) + 1
    assert segmenter.most_held <= cap + 1
