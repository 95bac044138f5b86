"""Transcripts: their sentences, and how long speech of them may last."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.text.duration import ordinary_speech_s, plausible_speech_s
from csm_trio.text.transcript import MAX_TRANSCRIPT_CHARS, BadTranscript, Transcript

ORDINARY_CHARS_PER_S = 15


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        transcript = Transcript.parse(text)
    except BadTranscript:
        return
    ends = [sentence.end for sentence in transcript.sentences]
    assert ends == sorted(set(ends))
    assert ends[-1] == len(transcript.text)
    assert transcript.text.split() == transcript.text.strip().split(" ")
    assert transcript.fastest_s > 0
    assert Transcript.parse(transcript.text) == transcript


def test_sentences_end_where_the_text_front_end_ends_them() -> None:
    text = "Dr. Green paid $3.50.\nWas it much? No, it was not"
    transcript = Transcript.parse(text)
    parts, start = [], 0
    for sentence in transcript.sentences:
        parts.append(transcript.text[start : sentence.end].strip())
        start = sentence.end
    assert parts == ["Dr. Green paid $3.50.", "Was it much?", "No, it was not"]


@pytest.mark.parametrize("text", ["", " \n ", "?!", "🙂", "\x00\ud800"])
def test_a_text_without_words_is_refused(text: str) -> None:
    with pytest.raises(BadTranscript, match="no words"):
        Transcript.parse(text)


def test_the_longest_transcript_is_read_and_one_more_character_is_refused() -> None:
    longest = "word " * (MAX_TRANSCRIPT_CHARS // 5)
    assert len(Transcript.parse(longest).sentences) == 1
    with pytest.raises(BadTranscript, match="2001 characters"):
        Transcript.parse(longest + "s")


@pytest.mark.parametrize(
    "text",
    [
        "The quick brown fox jumps over the lazy dog, and then it sleeps in the sun.",
        "Then my sister laughed, pointed at the sky, and told us the story of the green balloon.",
    ],
)
def test_ordinary_speech_has_about_15_characters_a_second(text: str) -> None:
    assert ordinary_speech_s(text) == pytest.approx(len(text) / ORDINARY_CHARS_PER_S, rel=0.2)
    fastest_s, slowest_s = plausible_speech_s(text)
    assert len(text) / fastest_s == pytest.approx(30, rel=0.05)
    assert len(text) / slowest_s == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize(
    ("text", "spoken_s"),
    [
        ("It was 1,234,567 in 1999.", 5.0),
        ("我们在三月的一个寒冷的早晨见面。", 3.5),
        ("三月のとても寒い朝に駅のそばで会いました。", 4.0),
        ("우리는 삼월의 추운 아침에 만났습니다.", 3.5),
        ("Wir trafen uns an einem kalten Morgen im März.", 2.8),
        ("MEET ME AT THE OLD STATION AT NOON.", 2.2),
    ],
)
def test_a_natural_pace_is_plausible_in_other_scripts_and_with_figures(
    text: str, spoken_s: float
) -> None:
    transcript = Transcript.parse(text)
    assert transcript.fastest_s < spoken_s < transcript.slowest_s
    assert transcript.fastest_s < spoken_s / 1.5
    assert transcript.slowest_s > spoken_s * 1.5
