"""What is written beside what is given to the tokenizer."""

# ruff: noqa: RUF001 -- marks that look like ASCII ones are what these tables are about

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.text.normalize import normalize

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
    # characters nobody sees
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
    assert normalize(text) == text


@pytest.mark.parametrize(("written", "said"), CASES)
def test_what_is_written_becomes_what_is_said(written: str, said: str) -> None:
    assert normalize(written) == said


@pytest.mark.parametrize(
    "text",
    ["", " ", "—", "...", "***", "---", "🙂", "👍🏽 !", "#", "- ", "“”", "\u200b", "$ % &", "[]()"],
)
def test_what_has_no_letter_and_no_digit_is_not_said(text: str) -> None:
    assert normalize(text) == ""


@given(st.text())
def test_the_result_is_clean_whatever_comes_in(text: str) -> None:
    said = normalize(text)
    assert said == " ".join(said.split())
    assert said == unicodedata.normalize("NFC", said)
    assert {unicodedata.category(char) for char in said}.isdisjoint({"Cc", "Cf", "Cs", "Co", "Cn"})
    assert not set(said) & set("“”‘’…—–\xa0\ufe0f🙂")
    assert said == "" or any(char.isalnum() for char in said)


@given(st.text(st.sampled_from("aBçé5 .,!?*_`~#->+=|\n“’…—–🙂\u200d\ufe0f\u200b\t(){}")))
def test_every_letter_and_digit_is_said_in_order(text: str) -> None:
    assert [char for char in normalize(text) if char.isalnum()] == [
        char for char in text if char.isalnum()
    ]


@given(st.text())
def test_the_result_can_be_encoded(text: str) -> None:
    assert normalize(text + "\ud83d").encode() == normalize(text).encode()


@pytest.mark.parametrize(
    "piece",
    [
        "[",
        "[](",
        "[](([](",
        "_",
        "*",
        "a*",
        "a_",
        "- ",
        "#",
        "`",
        "\u0301\u0316",
        " ",
        "(a)",
        " .",
        "=_",
    ],
)
def test_hostile_repetition_comes_through(piece: str) -> None:
    said = normalize("x" + piece * 50_000 + "y")
    assert said.startswith("x")
    assert said.endswith("y")
