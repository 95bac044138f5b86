"""From deltas to lines: sentences in words, and pauses."""

import pytest

from csm_trio.text.frontend import TextFrontend
from csm_trio.text.ssml import MAX_BREAK_MS, Break
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


def lines(frontend: TextFrontend, *deltas: str) -> list[str | int]:
    """Return what is said, and the length of each pause."""
    found = [line for delta in deltas for line in frontend.feed(delta)] + frontend.finish()
    return [line.duration_ms if isinstance(line, Break) else line.text for line in found]


@pytest.mark.parametrize("text", WHOLE)
def test_a_stop_within_a_figure_or_a_name_never_cuts(text: str) -> None:
    whole = lines(TextFrontend(), text)
    assert lines(TextFrontend(), *text) == whole
    assert len(whole) == 3 if "Or (" in text else 2
    assert not any(char.isdigit() for line in whole for char in str(line))


def test_a_long_text_is_cut_beside_its_figures_not_within() -> None:
    number = "(555) 123-4567"
    for filler in range(250, 281):
        text = "word " * (filler // 5) + "x" * (filler % 5) + f" {number} or $3 million more"
        said = " ".join(str(line) for line in lines(TextFrontend(), text))
        assert "five five five, one two three, four five six seven" in said
        assert "three million dollars" in said


def test_a_pause_ends_a_sentence_wherever_it_stands() -> None:
    text = 'Wait<break time="1s"/>for 2 of them. <break time="80ms"/>Then go'
    for deltas in ([text], list(text)):
        assert lines(TextFrontend(), *deltas) == ["Wait", 1000, "for two of them.", 80, "Then go"]


def test_pauses_with_nothing_said_between_them_share_one_limit() -> None:
    pause = '<break time="2s"/>'
    frontend = TextFrontend()
    assert lines(frontend, pause * 3, "Hi.", pause * 2) == [2000, 1000, 0, "Hi.", 2000, 1000]
    assert MAX_BREAK_MS == 3000


def test_off_leaves_figures_to_the_model() -> None:
    assert lines(TextFrontend(normalization="off"), "**Dr.** Lee: $5.20! 🙂") == ["Dr. Lee: $5.20!"]


def test_tags_are_markup_or_never_spoken() -> None:
    text = 'A <phoneme alphabet="ipa" ph="x">word</phoneme> &amp; <b>more</b>'
    assert lines(TextFrontend(ssml=True), text) == ["A word and more"]
    assert lines(TextFrontend(), text) == ["A word and more"]


def test_an_unfinished_tag_waits_through_a_flush() -> None:
    frontend = TextFrontend()
    assert frontend.feed("Hold <brea") == []
    assert [line.text for line in frontend.flush() if not isinstance(line, Break)] == ["Hold"]
    assert lines(frontend, 'k time="1s"/> on') == [1000, "on"]


def test_what_would_outlast_the_limit_comes_in_parts_with_what_they_stand_for() -> None:
    text = f"Your number is {'(555) 123-4567 and ' * 4}that is all, thank you. Bye."
    frontend = TextFrontend(limit_s=10)
    found = [*frontend.feed(text), *frontend.finish()]
    parts = [line for line in found if not isinstance(line, Break)]
    assert " ".join(part.text for part in parts) == " ".join(map(str, lines(TextFrontend(), text)))
    assert " ".join(part.written for part in parts).split() == text.split()
    assert len(parts) > 3
    for part in parts:
        assert_tiles(part, part.written)
