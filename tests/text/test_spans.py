"""The span map from spoken to written characters, after any replacements."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.text.spans import Replacement, Run, SpokenText, TracedText
from support.span_checks import assert_tiles

WORD = re.compile(r"\w+")
DIGIT = re.compile(r"\d")


def test_a_text_left_alone_is_one_run() -> None:
    spoken = TracedText("as it is").finish()
    assert spoken == SpokenText("as it is", "as it is", (Run(0, 8, 0, 8),))
    assert spoken.spoken_positions() == [0, 1, 2, 3, 4, 5, 6, 7, 8]


def test_a_replacement_stands_for_its_match_as_a_whole() -> None:
    traced = TracedText("at 5 pm")
    traced.sub(DIGIT, "five")
    spoken = traced.finish()
    assert spoken.text == "at five pm"
    assert spoken.runs == (Run(0, 3, 0, 3), Run(3, 7, 3, 4), Run(7, 10, 4, 7))
    assert spoken.spoken_positions() == [0, 1, 2, 3, 7, 8, 9, 10]


def test_removed_text_is_an_empty_run() -> None:
    traced = TracedText("*a* b*")
    traced.sub(re.compile(r"\*"), "")
    spoken = traced.finish()
    assert spoken.text == "a b"
    assert spoken.runs == (
        Run(0, 0, 0, 1),
        Run(0, 1, 1, 2),
        Run(1, 1, 2, 3),
        Run(1, 3, 3, 5),
        Run(3, 3, 5, 6),
    )
    assert spoken.spoken_positions() == [0, 0, 1, 1, 2, 3, 3]


def test_each_replacement_maps_to_its_own_range() -> None:
    def spell(match: re.Match[str]) -> list[Replacement]:
        start, end = match.span()
        return [("A B", start, end - 1), (" ", end - 1, end), ("c", end - 1, end)]

    traced = TracedText("x ab7 y")
    traced.sub(re.compile("ab7"), spell)
    spoken = traced.finish()
    assert spoken.text == "x A B c y"
    assert spoken.runs == (Run(0, 2, 0, 2), Run(2, 5, 2, 4), Run(5, 7, 4, 5), Run(7, 9, 5, 7))


def test_a_second_replacement_maps_to_the_original_text() -> None:
    traced = TracedText("1 2")
    traced.sub(DIGIT, lambda match: {"1": "a1", "2": "b"}[match[0]])
    traced.sub(DIGIT, "one")
    assert traced.finish().runs == (Run(0, 4, 0, 1), Run(4, 6, 1, 3))


def test_none_leaves_a_match_alone() -> None:
    traced = TracedText("1 2")
    traced.sub(DIGIT, lambda match: "two" if match[0] == "2" else None)
    assert traced.finish().text == "1 two"


def test_text_removed_as_a_whole_is_one_empty_run() -> None:
    traced = TracedText("***")
    traced.sub(re.compile(r"\*+"), "")
    assert traced.finish() == SpokenText("", "***", (Run(0, 0, 0, 3),))
    assert TracedText("").finish() == SpokenText("", "", ())


@given(
    written=st.text(st.sampled_from("ab1 *"), max_size=30),
    changes=st.lists(
        st.tuples(st.sampled_from(["a", "b+", "1", " +", r"\*+", "ab", "cc"]), st.text("abc 1*")),
        max_size=6,
    ),
)
def test_any_replacements_tile_both_texts(written: str, changes: list[tuple[str, str]]) -> None:
    traced = TracedText(written)
    for pattern, new in changes:
        traced.sub(re.compile(pattern), new)
    assert_tiles(traced.finish(), written)


@pytest.mark.parametrize("new", ["", "word"])
def test_a_long_text_is_rewritten_in_linear_time(new: str) -> None:
    written = "ab 1 " * 20_000
    traced = TracedText(written)
    traced.sub(WORD, new)
    assert_tiles(traced.finish(), written)


def test_a_part_that_begins_within_a_replacement_has_none_of_its_written_text() -> None:
    traced = TracedText("now $5 *or* 6")
    traced.sub(re.compile(r"\$5"), "five dollars")
    traced.sub(re.compile(r"\*"), "")
    spoken = traced.finish()
    assert spoken.text == "now five dollars or 6"
    one, two = spoken.part(0, 8), spoken.part(9, 21)
    assert (one.text, one.written) == ("now five", "now $5")
    assert (two.text, two.written) == ("dollars or 6", " *or* 6")
    assert_tiles(one, one.written)
    assert_tiles(two, two.written)


@given(
    st.text("ab $5*,. ", min_size=1, max_size=40),
    st.lists(st.integers(0, 60), max_size=4),
    st.booleans(),
)
def test_parts_have_all_written_text_except_the_spaces_between_them(
    written: str, cuts: list[int], changed: bool
) -> None:
    traced = TracedText(written)
    if changed:
        traced.sub(re.compile(r"\$5"), "five dollars")
        traced.sub(re.compile(r"\*"), "")
    spoken = traced.finish()
    at, parts = 0, []
    for cut in sorted({cut for cut in cuts if cut < len(spoken.text)}):
        if cut > at:
            parts.append(spoken.part(at, cut))
            at = cut + (spoken.text[cut] == " ")
    parts.append(spoken.part(at, len(spoken.text)))
    for part in parts:
        assert_tiles(part, part.written)
    assert "".join(part.text for part in parts).replace(" ", "") == spoken.text.replace(" ", "")
    joined = "".join(part.written for part in parts)
    assert joined.replace(" ", "") == written.replace(" ", "")
