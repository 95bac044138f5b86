"""Transcript of a recording: its sentences, and how long their speech may last.

The module must not know audio.
"""

import unicodedata
from dataclasses import dataclass
from typing import Self

from csm_trio.text.duration import ordinary_speech_s, plausible_speech_s
from csm_trio.text.normalization.normalize import normalize
from csm_trio.text.segment import Segmenter

MAX_TRANSCRIPT_CHARS = 2_000
"""Two minutes of ordinary speech have 1,800."""

_NO_TEXT = ("Cc", "Cs")  # control characters, lone surrogates


class BadTranscript(ValueError):
    """The text is no transcript; the message is the reason in one sentence."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of a transcript that ends before the character `end` of its text.

    speech_s: the seconds that an ordinary voice needs for it.
    """

    end: int
    speech_s: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """What is spoken in a recording: `text` on one line, its `sentences` in order.

    fastest_s, slowest_s: how long its speech lasts in the fastest and the slowest voice.
    """

    text: str
    sentences: tuple[Sentence, ...]
    fastest_s: float
    slowest_s: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a transcript; raises `BadTranscript` for one without words, or too long."""
        if len(text) > MAX_TRANSCRIPT_CHARS:
            raise BadTranscript(
                f"The transcript has {len(text)} characters; at most {MAX_TRANSCRIPT_CHARS} "
                "are possible."
            )
        plain = (" " if unicodedata.category(char) in _NO_TEXT else char for char in text)
        text = " ".join("".join(plain).split())
        segmenter = Segmenter(max_chars=MAX_TRANSCRIPT_CHARS)
        sentences: list[Sentence] = []
        spoken: list[str] = []
        end = 0
        for written in [*segmenter.feed(text), *segmenter.flush()]:
            end = text.index(written, end) + len(written)
            spoken.append(normalize(written).text)
            sentences.append(Sentence(end, ordinary_speech_s(spoken[-1])))
        if not any(spoken):
            raise BadTranscript("The transcript has no words.")
        fastest_s, slowest_s = plausible_speech_s(" ".join(spoken))
        return cls(text, tuple(sentences), fastest_s, slowest_s)
