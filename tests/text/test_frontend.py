"""The text front end: from deltas to normalized sentences and pauses."""

import pytest

from csm_trio.text.frontend import TextFrontend
from csm_trio.text.ssml import MAX_BREAK_MS, Break
from data.normalization_pairs import WRITTEN_AND_SPOKEN
from support.span_checks import assert_tiles

WHOLE = [
    "It costs $5.20. Thanks.",
    "Pi is 3.14. Fine.",
    "We close at 5 p.m. on Monday. Come by.",
    "Dr. Smith is in. Go.",
    "Visit example.com. Now.",
    "The U.S. Army is here. Yes.",
    "We meet at 10.30. Be there.",
    "It is No. 5 today. Good.",
    "Call 555.123.4567. Or (555) 123-4567. Please.",
    "Get v2.0.1. Now.",
    "Ping 192.168.1.1. It answers.",
    "Mail a.b@c.co.uk. Soon.",
]


ONE_SENTENCE = ["abbreviations within a sentence", "streets and titles", "rupees"]


def spoken(frontend: TextFrontend, *deltas: str) -> list[str | int]:
    """Return the text of each sentence and the milliseconds of each pause."""
    found = [sentence for delta in deltas for sentence in frontend.feed(delta)] + frontend.finish()
    return [
        sentence.duration_ms if isinstance(sentence, Break) else sentence.text for sentence in found
    ]


@pytest.mark.parametrize("text", WHOLE)
def test_a_stop_within_a_figure_or_a_name_ends_no_sentence(text: str) -> None:
    whole = spoken(TextFrontend(), text)
    assert spoken(TextFrontend(), *text) == whole
    assert len(whole) == 3 if "Or (" in text else 2
    assert not any(char.isdigit() for sentence in whole for char in str(sentence))


@pytest.mark.parametrize(
    ("written", "whole"),
    [pair for kind in ONE_SENTENCE for pair in WRITTEN_AND_SPOKEN[kind]],
)
def test_an_abbreviation_ends_no_sentence(written: str, whole: str) -> None:
    assert spoken(TextFrontend(), written) == [whole]


def test_the_pairs_are_spoken_alike_through_the_segmenter() -> None:
    for pairs in WRITTEN_AND_SPOKEN.values():
        for written, whole in pairs:
            sentences = [one for one in spoken(TextFrontend(), *written) if isinstance(one, str)]
            if written != "Yes.No":  # two sentences
                assert " ".join(sentences).split() == whole.split(), written


def test_a_long_text_is_cut_beside_its_figures_not_within() -> None:
    number = "(555) 123-4567"
    for filler in range(250, 281):
        text = "word " * (filler // 5) + "x" * (filler % 5) + f" {number} or $3 million more"
        joined = " ".join(str(sentence) for sentence in spoken(TextFrontend(), text))
        assert "five five five, one two three, four five six seven" in joined
        assert "three million dollars" in joined


def test_a_pause_ends_a_sentence_anywhere() -> None:
    text = 'Wait<break time="1s"/>for 2 of them. <break time="80ms"/>Then go'
    for deltas in ([text], list(text)):
        assert spoken(TextFrontend(), *deltas) == ["Wait", 1000, "for two of them.", 80, "Then go"]


def test_pauses_without_text_between_them_share_one_limit() -> None:
    pause = '<break time="2s"/>'
    frontend = TextFrontend()
    assert spoken(frontend, pause * 3, "Hi.", pause * 2) == [2000, 1000, 0, "Hi.", 2000, 1000]
    assert MAX_BREAK_MS == 3000


def test_off_leaves_figures_to_the_model() -> None:
    assert spoken(TextFrontend(normalization="off"), "**Dr.** Lee: $5.20! 🙂") == [
        "Dr. Lee: $5.20!"
    ]


def test_tags_are_markup_or_never_spoken() -> None:
    text = 'A <phoneme alphabet="ipa" ph="x">word</phoneme> &amp; <b>more</b>'
    assert spoken(TextFrontend(ssml=True), text) == ["A word and more"]
    assert spoken(TextFrontend(), text) == ["A word and more"]


def test_an_unfinished_tag_waits_through_a_flush() -> None:
    frontend = TextFrontend()
    assert frontend.feed("Hold <brea") == []
    assert [sentence.text for sentence in frontend.flush() if not isinstance(sentence, Break)] == [
        "Hold"
    ]
    assert spoken(frontend, 'k time="1s"/> on') == [1000, "on"]


@pytest.mark.parametrize(
    "kept",
    [
        "January fifth, twenty twenty seven",
        "San Jose, CA",
        "Doctor Anna Smith",
        "five million dollars",
        "five five five, one two three, four five six seven, extension four two",
        "twelve Oak Street, Apartment four, San Jose, CA",
    ],
)
def test_a_part_never_ends_within_an_expression(kept: str) -> None:
    written = {
        "January fifth, twenty twenty seven": "January 5, 2027",
        "Doctor Anna Smith": "Dr. Anna Smith",
        "five million dollars": "$5 million",
        "twelve Oak Street, Apartment four, San Jose, CA": "12 Oak St., Apt. 4, San Jose, CA",
    }.get(kept, kept if kept[0] == "S" else "(555) 123-4567, ext. 42")
    for words in range(1, 24):
        frontend = TextFrontend(limit_s=8)
        parts = spoken(frontend, f"{'soon ' * words}{written} is what you will hear from us now")
        assert [part for part in parts if kept in str(part)], (words, parts)


def test_a_sentence_beyond_the_limit_is_split_into_parts_with_their_written_text() -> None:
    text = f"Your number is {'(555) 123-4567 and ' * 4}that is all, thank you. Bye."
    frontend = TextFrontend(limit_s=10)
    found = [*frontend.feed(text), *frontend.finish()]
    parts = [sentence for sentence in found if not isinstance(sentence, Break)]
    assert " ".join(part.text for part in parts) == " ".join(map(str, spoken(TextFrontend(), text)))
    assert " ".join(part.written for part in parts).split() == text.split()
    assert len(parts) > 3
    for part in parts:
        assert_tiles(part, part.written)
