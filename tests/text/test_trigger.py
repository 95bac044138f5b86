"""The text that `trigger` returns, for ElevenLabs' `try_trigger_generation`."""

import pytest

from csm_trio.text.segment import Segmenter


def hint_after_each(segmenter: Segmenter, deltas: list[str]) -> list[str]:
    sentences = []
    for delta in deltas:
        sentences += segmenter.feed(delta) + segmenter.trigger()
    return sentences + segmenter.flush()


@pytest.mark.parametrize(
    "text",
    [
        "Hello there.",
        "Who is it?",
        "Stop!",
        'He said "go."',
        "Let me see...",
        'He said "go." ',
        "好。",
    ],
)
def test_a_trigger_returns_a_finished_sentence_at_once(text: str) -> None:
    segmenter = Segmenter()
    assert segmenter.feed(text) == []
    assert segmenter.trigger() == [text.strip()]
    assert segmenter.pending_chars == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hello",
        "Ask Dr.",
        "Ask Dr. ",
        "At 5 p.m.",
        "At 5 p.m. ",
        "In the U.S. ",
        "John F.",
        "It is 3.",
        "1. ",
        "No. ",
        "...",
        "Hello there, you",
        '"Go." (',
        "x" * 100,
        "So, " + "word " * 20,
    ],
)
def test_a_trigger_returns_no_unfinished_sentence(text: str) -> None:
    segmenter = Segmenter()
    segmenter.feed(text)
    assert segmenter.trigger() == []


def test_a_long_first_sentence_is_returned_up_to_its_last_clause() -> None:
    segmenter = Segmenter()
    assert segmenter.feed("Well, if you look at the second page, you will ") == []
    assert segmenter.trigger() == []  # fewer than 50 characters wait
    assert segmenter.feed("find it") == []
    assert segmenter.trigger() == ["Well, if you look at the second page,"]
    assert segmenter.flush() == ["you will find it"]


def test_only_the_first_sentence_is_returned_at_a_clause() -> None:
    segmenter = Segmenter()
    assert segmenter.feed("Hi. If you look at the second page, you will find all of it") == ["Hi."]
    assert segmenter.trigger() == []


def test_a_comma_within_a_number_is_no_clause() -> None:
    segmenter = Segmenter()
    segmenter.feed("The grand total of the whole order comes to some 3,500")
    assert segmenter.trigger() == []


def test_a_trigger_with_every_word_cuts_only_at_sentences() -> None:
    text = "Hello, this is Dr. Smith. You owe $3.50 by 5 p.m. Friday, don't you? Pay now, please!"
    words = [word + " " for word in text.split()]
    assert hint_after_each(Segmenter(), words) == [
        "Hello, this is Dr. Smith.",
        "You owe $3.50 by 5 p.m. Friday, don't you?",
        "Pay now, please!",
    ]


def test_a_trigger_with_every_word_of_an_endless_text_cuts_only_at_clauses_and_max_chars() -> None:
    words = ["If ", "we ", "go ", "there ", "tomorrow, ", *["word "] * 100]
    sentences = hint_after_each(Segmenter(100), words)
    assert sentences[0] == "If we go there tomorrow,"
    assert min(map(len, sentences[1:-1])) > 90
