"""The segmenter against sentencex (Wikimedia), which segments whole texts."""

import pytest
import sentencex  # type: ignore[import-untyped]

from csm_trio.text.segment import Segmenter

PARAGRAPHS = [
    "Thank you for calling Green Valley Dental. My name is Anna. How can I help you today?",
    "I can see your order here. It left our warehouse this morning! You should have it by Friday.",
    "Sure, I can move that for you. Does Tuesday at ten work? Great. You are all set.",
    "Dr. Smith has an opening on Jan. 5 at 3 p.m. and one at 4:30. Which one do you prefer?",
    "Your total comes to $42.75. That includes a delivery fee of $3.50. Shall I go on?",
    "You can write to us at help@example.com. We answer within a day. Is there anything else?",
    "Please visit www.example.com for details. The form is on the first page.",
    "Mr. and Mrs. Lee live at 12 St. James Road. They moved in last year.",
    "The book is by J. R. R. Tolkien. He finished it in 1949. It came out in 1954.",
    "The U.S. Army was founded in 1775. It is older than the country.",
    "Version 2.0.1 fixes that. Update the app, then try again. Did it work?",
    "Bring some fruit, e.g. apples or pears. Bread, cheese, etc. will be there.",
    "Wait... what did you say? I could not hear you. Say it again, please.",
    '"Are you sure?" she asked. "Of course!" He was already at the door.',
    "What a day! First the rain, then the heat. Who would have thought?",
    "The meeting is at 5 p.m. Then we eat. It ends at 9.",
    "Is it 3.14? Yes. Is it 22/7? No, not quite.",
    "See No. 5 on the list. It was Smith vs. Jones.",
    "He works for Acme Inc. She works for the bank. They met in Washington D.C. last spring.",
    "I am sorry to hear that. Let me check... One moment. Here it is.",
    "Our office is open from 9 a.m. to 5 p.m. on weekdays. We are closed on Sunday.",
    "The temperature will reach 21.5 degrees today. Tomorrow will be colder. Take a coat.",
    "She earned her Ph.D. in 2010. She has taught ever since.",
    "That was plan B. It failed. We have no plan C.",
]


def segment(text: str) -> list[str]:
    segmenter = Segmenter()
    return segmenter.feed(text) + segmenter.flush()


def whole(text: str) -> list[str]:
    return [sentence.strip() for sentence in sentencex.segment("en", text)]


@pytest.mark.parametrize("text", PARAGRAPHS, ids=lambda text: text[:24])
def test_ordinary_speech_is_cut_as_sentencex_cuts_it(text: str) -> None:
    assert segment(text) == whole(text)


def test_the_whole_corpus_is_cut_as_sentencex_cuts_it() -> None:
    text = " ".join(PARAGRAPHS)
    assert segment(text) == whole(text)
