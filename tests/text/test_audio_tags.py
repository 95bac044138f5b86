"""Audio tags: directions in square brackets that are not spoken, and stay in the written text."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.text.audio_tags import MAX_AUDIO_TAG_CHARS
from csm_trio.text.frontend import TextFrontend
from csm_trio.text.spans import SpokenText


def sentences(*deltas: str, audio_tags: bool = True, longest: int = 280) -> list[tuple[str, str]]:
    """Return the spoken and written text of every sentence."""
    frontend = TextFrontend(audio_tags=audio_tags, chunk_lengths=(longest,))
    found = [item for delta in deltas for item in frontend.feed(delta)] + frontend.finish()
    return [(item.text, item.written) for item in found if isinstance(item, SpokenText)]


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("[laughs] Hello there.", "Hello there."),
        ("I am [strong French accent] fine [whispers], yes.", "I am fine, yes."),
        ("[curious][laughs] Hi.", "Hi."),
        ("Hello there [sighs. loudly] to you.", "Hello there to you."),
        ("See [docs](http://a.example/c) now.", "See docs now."),
        ("An [unclosed bracket stays.", "An [unclosed bracket stays."),
        (f"[{'long ' * 30}] stays.", None),
    ],
)
def test_a_tag_is_not_spoken_and_stays_as_written(written: str, spoken: str | None) -> None:
    ((text, kept),) = sentences(written)
    assert kept == written
    assert (text == spoken) if spoken is not None else ("long" in text)


def test_without_the_setting_brackets_are_read() -> None:
    assert sentences("[laughs] Hi.", audio_tags=False) == [("[laughs] Hi.", "[laughs] Hi.")]


def test_a_tag_alone_is_nothing_to_say() -> None:
    assert sentences("[laughs]") == []
    assert sentences("Hi. [laughs] ", "Bye.") == [("Hi.", "Hi."), ("Bye.", "[laughs] Bye.")]


@pytest.mark.parametrize("tag", ["[laughs]", "[a rather long direction]", "[x]"])
def test_a_long_sentence_is_not_cut_within_a_tag(tag: str) -> None:
    parts = sentences(f"many words {tag} and " * 30, longest=60)
    assert len(parts) > 5
    assert not [text for text, _ in parts if "[" in text or "]" in text]
    assert sum(written.count(tag) for _, written in parts) == 30


TEXTS = st.text(alphabet="[]ab. ,!?\n1", max_size=200) | st.text(alphabet="[] a", max_size=400)


@given(text=TEXTS, cuts=st.lists(st.integers(0, 400), max_size=6))
def test_sentences_do_not_depend_on_the_deltas(text: str, cuts: list[int]) -> None:
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    deltas = [text[a:b] for a, b in pairwise(bounds)]
    assert sentences(*deltas) == sentences(text)


@pytest.mark.parametrize("flood", ["[a]", "[", "]", "[a" + "b" * MAX_AUDIO_TAG_CHARS, "[]"])
def test_tags_without_end_are_held_in_bounds(flood: str) -> None:
    frontend = TextFrontend(audio_tags=True)
    for _ in range(2_000):
        frontend.feed(flood)
    assert frontend._segmenter.pending_chars < 1_000
