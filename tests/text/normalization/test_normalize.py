"""Text normalization in every mode, without marks and emoji; and the laws of the span map."""

# ruff: noqa: RUF001 -- marks that look like ASCII ones are what these tables are about

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.text.normalization.lexicon import words
from csm_trio.text.normalization.normalize import Normalization, normalize
from csm_trio.text.spans import Run
from data.normalization_pairs import WRITTEN_AND_SPOKEN
from support.span_checks import assert_tiles

MODES = st.sampled_from(["auto", "on", "off"])
WRITTEN = [written for cases in WRITTEN_AND_SPOKEN.values() for written, _ in cases]
TEXTS = st.lists(
    st.sampled_from(WRITTEN)
    | st.text(st.sampled_from("0123456789.,:/-+$%@#&()'\" aApPmMkxvI°½²٣é\n*_|<>[]"), max_size=12)
    | st.characters(),
    max_size=8,
).flatmap(lambda parts: st.sampled_from([" ".join(parts), "".join(parts)]))
SYMBOLS = st.text(
    st.sampled_from("0159.,:/-+$%@#&()'\" aPxFhs½²€₹~≤^\\{}=!?″№×₂Ⅳ➀*_|<>°"), max_size=20
)
ORDINARY = words("""
    the quick brown fox, jumps; over lazy dogs! FBI NASA don't café either/or well-known It's I
    isn't "quoted" (so) Then: why?
""")
# Hostile repetitions: a pattern that is quadratic in one of them takes minutes.
FLOODS = [
    *words(r"1 1, 1- - . ( [ []( []((] _ a_ * a* ` # @ a@ a. www. < <! & &amp; | = % \\ é \u0301"),
    *(" ", "\n", " .", "- ", "1 ", "a ", "🙂", "\u200b", "\ud83d", "\u0301\u0316", "(a)"),
]
# Each is matched by a rule, at least at its beginning.
REPEATED = [
    *words("""
        1,111 1. 1/ 1: $ $1 1a a1 a- [[ ]( [](([]( ~ #a @a a@a. http:// <a a&b &a &#1 +1 1+ =_ a= 1x
        1h 1% ' '1 5'5 ½ 1½ ² ٣ Á IV v1. 1st 1990s 19 2020- 1k ° 12:30 12:30- 1.1.1.1 a/ a.com
        <br> St. Mon- $$ -- ((
    """),
    *("1 - ", "1 1/2 ", "a St. ", "Jan ", "1 Jan ", "5 of May ", "order ", "order number ", "N. "),
    *("Dr. A ", "Chapter ", "Henry ", "$1 million ", "1 to ", "1 km/h ", "5° ", "5 p.m. ", "| a "),
    *(
        "5' ",
        "5'1",
        "8am-",
        "8am - ",
        "$1k-",
        "3/4-",
        "3/4, ",
        "from 3/4 to ",
        "1x",
        "~5 ",
        "<",
        "1 000 ",
    ),
    *(
        "1.000.",
        "1,50,",
        "A-1.",
        "1s",
        "90s ",
        "90s-",
        "***",
        "** ",
        "*1",
        "x1x",
        "fe80::",
        "a:",
        "A4:",
    ),
    *(
        "No. 5 ",
        "Main St. ",
        "5 N ",
        "Est. ",
        "M/",
        "Mon/",
        "card ",
        "#1 ",
        "#1-",
        "text a ",
        "a >= ",
    ),
    *(
        "550e8400-",
        "12/25 ",
        "/a/b ",
        "exp 1",
        "5 ft ",
        "5 ft x ",
        "in 90210, ",
        "code 12 ",
        "01 42 ",
        "(0",
    ),
    *("- [x] ", "[^", "[x]: ", "& ", "<a ", "PIN is is ", "5 May 2024 ", "call 555 "),
]

PLAIN = [
    "Hello there.",
    "It's 5 p.m., isn't it?",
    "Pay $3.50 (or 50% of €7) to a.b@c.org & call #12!",
    "snake_case, 2*3, 2 * 3 and 2**3 stay; so do a/b, C#, c++ and ~5",
    "Wait -- what... -5 degrees, 5 - 3",
    "Crème brûlée à la Zoë, Åse, Łódź, ñandú",
    "21°C, ½ and x² come later",
]

CASES = [
    # typography
    ("“Hello,” she said. ‘It’s fine.’", "\"Hello,\" she said. 'It's fine.'"),
    ("Well… yes—no", "Well... yes - no"),
    ("He paused — then left", "He paused - then left"),
    ("10–20 people, Paris–Dakar", "10-20 people, Paris-Dakar"),
    ("well‑known −5", "well-known -5"),
    ("I was going to—", "I was going to"),
    ("— he said", "he said"),
    ("Dr.\xa0Smith\u2009said\u3000so", "Dr. Smith said so"),
    ("  a\t b\n\n c  ", "a b c"),
    # invisible characters
    ("a\x00b\x07c\x1b", "abc"),
    ("zero\u200bwidth\u200d and soft\u00adhyphen\ufeff", "zerowidth and softhyphen"),
    ("\u202ereversed\u202c", "reversed"),
    ("half a pair \ud83d here", "half a pair here"),
    # forms of the same letter
    ("cafe\u0301", "café"),
    ("ﬁne Ｈｅｌｌｏ！ 𝐛𝐨𝐥𝐝", "fine Hello! bold"),
    ("z\u0301\u0302\u0303\u0304\u0305\u0306\u0307", "ź\u0302\u0303\u0304"),
    # emoji and decoration
    ("Great 👍🏽 job ❤️!", "Great job!"),
    ("Done👩‍🚀now", "Done now"),
    ("1️⃣ one ★ ✓ → two", "1 one two"),
    ("a | b", "a b"),
    # Markdown
    (
        "**Bold**, *italic*, ***both***, __bold__ and _italic_",
        "Bold, italic, both, bold and italic",
    ),
    ("`code`, ``more`` and ~~gone~~", "code, more and gone"),
    ("un**believ**able", "unbelievable"),
    ("_*nested*_ *_nested_*", "nested nested"),
    ("**Note:** this", "Note: this"),
    ("# Title", "Title"),
    ("### Third # one", "Third # one"),
    ("- item", "item"),
    ("* item", "item"),
    ("• item", "item"),
    ("  - [x](y)", "x"),
    ("> - quoted", "quoted"),
    ("1. first", "1. first"),
    ("***\nText", "Text"),
    ("[our page](https://a.org/b_(c)) and ![a cat](cat.png)", "our page and a cat"),
    ("[not a link] (here)", "[not a link] (here)"),
]


@pytest.mark.parametrize("text", PLAIN)
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert normalize(text, "off").text == text


@pytest.mark.parametrize(("written", "spoken"), CASES)
def test_marks_become_plain_and_decoration_goes(written: str, spoken: str) -> None:
    assert normalize(written, "off").text == spoken


@pytest.mark.parametrize(
    "text",
    ["", " ", "—", "...", "***", "---", "🙂", "👍🏽 !", "#", "- ", "“”", "\u200b", "$ % &", "[]()"],
)
def test_text_without_letters_and_digits_becomes_empty(text: str) -> None:
    assert normalize(text).text == ""


@given(st.text() | TEXTS, MODES)
def test_the_result_is_clean_for_any_text(text: str, mode: Normalization) -> None:
    result = normalize(text, mode).text
    assert result == " ".join(result.split())
    assert result == unicodedata.normalize("NFC", result)
    assert {unicodedata.category(char) for char in result}.isdisjoint(
        {"Cc", "Cf", "Cs", "Co", "Cn"}
    )
    assert not set(result) & set("“”‘’…—–\xa0\ufe0f🙂")
    assert result == "" or any(char.isalnum() for char in result)


@given(st.text(st.sampled_from("aBçé5 .,!?*_~#->+=|\n“’…—–🙂\u200d\ufe0f\u200b\t(){}")))
def test_every_letter_and_digit_is_kept_in_order(text: str) -> None:
    assert [char for char in normalize(text, "off").text if char.isalnum()] == [
        char for char in text if char.isalnum()
    ]


@given(st.text())
def test_the_result_can_be_encoded(text: str) -> None:
    assert normalize(text + "\ud83d").text.encode() == normalize(text).text.encode()


@pytest.mark.parametrize(
    ("part", "chars"),
    [*((part, 100_000) for part in FLOODS), *((part, 10_000) for part in REPEATED)],
)
def test_hostile_repetition_is_normalized_in_linear_time(part: str, chars: int) -> None:
    written = f"x {part * (chars // len(part))} y"
    spoken = normalize(written)
    assert spoken.text.startswith("x")
    assert spoken.text.endswith("y")
    assert_tiles(spoken, written)


@given(TEXTS | SYMBOLS, MODES)
def test_spans_tile_both_texts_for_any_text(text: str, mode: Normalization) -> None:
    spoken = normalize(text, mode)
    assert_tiles(spoken, text)


@pytest.mark.parametrize(
    "word", ["नमस्ते", "ประเทศไทย", "Łódź", "שָׁלוֹם", "z\u0301\u0302\u0303", "x、y · z†"]
)
def test_letters_and_marks_of_other_scripts_stay(word: str) -> None:
    assert normalize(word).text == unicodedata.normalize("NFC", word)


def left_to_the_model(spoken: str) -> list[str]:
    """Return the numerals, currency signs and bare symbols in a spoken text."""
    return [
        char
        for char in spoken
        if unicodedata.category(char)[0] in "NS" or char in "#$%&*+<=>@^_`|~\\"
    ]


@given(TEXTS | SYMBOLS | st.text())
def test_no_numeral_and_no_symbol_is_left(text: str) -> None:
    assert left_to_the_model(normalize(text).text) == []


def test_no_numeral_and_no_symbol_of_the_pairs_is_left() -> None:
    for written in WRITTEN:
        assert left_to_the_model(normalize(written).text) == [], written
        assert left_to_the_model(normalize(f"x{written}{written}y").text) == [], written


@given(TEXTS)
def test_normalization_is_idempotent(text: str) -> None:
    result = normalize(text, "off").text
    assert normalize(result, "off").text == result


@given(st.lists(st.sampled_from(ORDINARY), min_size=1, max_size=12))
def test_ordinary_words_map_one_to_one(chosen: list[str]) -> None:
    text = " ".join(chosen)
    spoken = normalize(text)
    assert spoken.text == text
    assert spoken.runs == (Run(0, len(text), 0, len(text)),)


def test_words_keep_their_positions_around_replacements() -> None:
    written = "**Pay** $5.20 by 5 p.m. today \N{SLIGHTLY SMILING FACE}, Dr. Lee"
    spoken = normalize(written)
    assert spoken.text == "Pay five dollars and twenty cents by five PM today, Doctor Lee"
    positions = spoken.spoken_positions()
    for word, words_spoken in [
        ("Pay", "Pay"),
        ("$5.20", "five dollars"),
        ("by", "by"),
        ("5 p", "five PM"),
        ("today", "today"),
        (", Dr", ", Doc"),
        ("Dr.", "Doctor"),
        ("Lee", "Lee"),
    ]:
        assert positions[written.index(word)] == spoken.text.index(words_spoken)


def test_each_digit_of_a_telephone_number_has_its_position() -> None:
    written = "Call 555-0123."
    spoken = normalize(written)
    positions = [round(at) for at in spoken.spoken_positions()]
    assert [spoken.text[a:b].strip(" ,") for a, b in pairwise(positions[5:14])] == [
        *["five"] * 3,
        "",
        "zero",
        "one",
        "two",
        "three",
    ]
