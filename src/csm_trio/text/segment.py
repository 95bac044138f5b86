"""Segmenter: split text deltas into sentences, each as soon as its end is certain.

The module must not know voices, or where the boundaries between deltas were.
"""

import enum
from collections.abc import Sequence

from csm_trio.text.audio_tags import AUDIO_TAG, MAX_AUDIO_TAG_CHARS
from csm_trio.text.cutting import clause_before, cut_point
from csm_trio.text.stops import (
    CONTINUING,
    LONGEST_GLUED_CHARS,
    LONGEST_WORD_CHARS,
    NEWLINES,
    OPENERS,
    STOPS,
    WIDE_STOPS,
    Rule,
    begins_sentence,
    classify,
    closes,
    glued_begins_sentence,
    may_be_glued,
)

_TRIGGER_CHARS = 50  # ElevenLabs' documented minimum buffer for `try_trigger_generation`
_TRIGGER_CLAUSE_CHARS = 20
_MIN_MAX_CHARS = 16


class _Phase(enum.Enum):
    TEXT = enum.auto()  # no candidate stop
    STOP = enum.auto()  # within stops and the closing marks after them
    GAP = enum.auto()  # in the whitespace after an ambiguous stop
    WORD = enum.auto()  # within the word after that whitespace
    GLUED = enum.auto()  # within a capitalized word that touches the stop


class Segmenter:
    """Split a stream of text into sentences while it arrives.

    The sentences do not depend on how the text was divided into deltas, so long as `trigger` is
    not called. Each is returned at the first character that makes its end certain: the
    whitespace after the stop; or, after an abbreviation, an initial, an ellipsis or a closing
    quote, the next letter or the end of the next word. A newline ends a sentence, a list number
    begins one. A stop with no whitespace after it ends a sentence before a capitalized word
    ("for you.Your order"), unless it stands within an address or code, and the wide stops of
    Chinese and Japanese always do; others (`3.5`, `example.com`) end nothing. More than `max_chars`
    without an end are cut where `cut_point` says. `chunk_lengths` are the `max_chars` of the first
    sentences; the last of them holds for all further ones.

    Sentences come stripped and never empty, and together hold every character but whitespace. A
    fragment with no letter or digit ("—", "...", "🙂") is held until the text it precedes; it
    is returned alone only when the stream ends or more than `max_chars` of it wait, and `normalize`
    then makes it "".

    With `audio_tags`, text in square brackets is a direction: it counts as no letter, and ends
    no sentence.

    Memory is bounded by `max_chars`, and each character is examined a bounded number of times.
    Raises `ValueError` for a length below 16.
    """

    def __init__(
        self,
        max_chars: int = 280,
        *,
        chunk_lengths: Sequence[int] = (),
        audio_tags: bool = False,
    ) -> None:
        lengths = list(chunk_lengths) or [max_chars]
        if min(lengths) < _MIN_MAX_CHARS:
            raise ValueError(f"max_chars must be at least {_MIN_MAX_CHARS}, not {min(lengths)}")
        self._max_chars, *self._next_lengths = lengths
        self._ready: list[str] = []
        self._started = False
        self._audio_tags = audio_tags
        self._begin()

    def _begin(self) -> None:
        self._held: list[str] = []  # one character each; the first is no whitespace
        self._phase = _Phase.TEXT
        self._rule = Rule.FREE
        self._stop_at = 0  # index of the first candidate stop
        self._cut_at = 0  # end of the sentence, if that stop ends it
        self._next_word = ""
        self._speakable = False
        self._tag_chars: int | None = None  # within the audio tag that is open, if one is

    @property
    def pending_chars(self) -> int:
        """Number of characters held back."""
        return len(self._held)

    def feed(self, delta: str) -> list[str]:
        """Take the next delta; return the sentences that it completes."""
        for char in delta:
            self._advance(char)
        return self._take()

    def flush(self) -> list[str]:
        """Return all held text, as if it ended here."""
        self._advance("\n")
        if self._held:
            self._cut(len(self._held))
        return self._take()

    def trigger(self) -> list[str]:
        """Return what can be generated now, for ElevenLabs' `try_trigger_generation`.

        That is all held text if it ends in a stop that is no abbreviation, initial or incomplete
        decimal. Else, if no sentence has been returned yet and at least 50 characters are held, it
        is the text before the last clause boundary. The official Python SDK triggers with every
        word, so a trigger never cuts at a mere space.
        """
        if self._stands_alone():
            self._cut(len(self._held))
        elif not self._started and len(self._held) >= _TRIGGER_CHARS:
            clause_at = clause_before("".join(self._held), self._max_chars)
            if clause_at >= _TRIGGER_CLAUSE_CHARS:
                self._cut(clause_at)
        return self._take()

    def _take(self) -> list[str]:
        ready, self._ready = self._ready, []
        return ready

    def _advance(self, char: str) -> None:
        if not self._held and char.isspace():
            return
        self._held.append(char)
        if self._audio_tags and self._in_audio_tag(char):
            return
        if char.isalnum():
            self._speakable = True
        if char in NEWLINES:
            self._end_line(char)
            return
        if self._phase is not _Phase.TEXT and self._settle(char):
            return
        if self._phase is _Phase.TEXT and self._speakable and char in STOPS:
            self._phase = _Phase.STOP
            self._stop_at = len(self._held) - 1
            self._cut_at = len(self._held)
        if len(self._held) > self._max_chars:
            self._cut_long()

    def _in_audio_tag(self, char: str) -> bool:
        """Return whether a character is within an audio tag; one that does not close is text."""
        if self._tag_chars is None:
            self._tag_chars = 0 if char == "[" else None
            return False
        self._tag_chars += 1
        if char in NEWLINES or self._tag_chars > MAX_AUDIO_TAG_CHARS:
            self._tag_chars, self._speakable = None, True
        elif char == "]":
            self._tag_chars = None
        else:
            return True
        return False

    def _end_line(self, newline: str) -> None:
        if self._phase in (_Phase.WORD, _Phase.GLUED) and self._settle(newline):
            return
        if self._speakable:
            self._cut(len(self._held) - 1)
        elif len(self._held) > self._max_chars:
            self._cut_long()

    def _settle(self, char: str) -> bool:
        """Advance the candidate stop by one character; return whether it ended a sentence."""
        if self._phase is _Phase.STOP:
            ends = self._judge_stop(char)
        elif self._phase is _Phase.GAP:
            ends = self._judge_gap(char)
        elif self._phase is _Phase.GLUED:
            ends = self._judge_glued(char)
        elif char.isalpha() and len(self._next_word) <= LONGEST_WORD_CHARS:
            self._next_word += char
            return False
        else:
            ends = begins_sentence(self._next_word, char, rule=self._rule)
        if ends is None:
            return False
        if ends:
            self._cut(self._cut_at)
        else:
            self._phase = _Phase.TEXT
        return ends

    def _judge_stop(self, char: str) -> bool | None:
        if char in STOPS or closes(char):
            self._cut_at = len(self._held)
            return None
        marks = self._held[self._stop_at : self._cut_at]
        if any(mark in WIDE_STOPS for mark in marks):
            return True
        if not char.isspace():
            return self._begin_glued(char, marks)
        self._rule = classify(self._held, self._stop_at, cut_at=self._cut_at)
        if self._rule in (Rule.FREE, Rule.JOIN):
            return self._rule is Rule.FREE
        self._phase = _Phase.GAP
        return None

    def _begin_glued(self, char: str, marks: list[str]) -> bool | None:
        if "\u2e80" <= char <= "\ua4cf" and marks[0] in "!?":
            return True
        if not char.isupper():
            return False
        self._rule = classify(self._held, self._stop_at, cut_at=self._cut_at)
        if not may_be_glued(self._held, self._stop_at, cut_at=self._cut_at, rule=self._rule):
            return False
        self._phase = _Phase.GLUED
        self._next_word = char
        return None

    def _judge_glued(self, char: str) -> bool | None:
        after_dot = self._held[self._stop_at] == "."
        stopped = self._next_word.endswith(".")
        continues = char.isalpha() or char == "'" or (char == "." and after_dot)
        if continues and not stopped and len(self._next_word) <= LONGEST_GLUED_CHARS:
            self._next_word += char
            return None
        word, following = self._next_word, char
        before = "".join(self._held[self._stop_at - 1 : self._stop_at + 1])
        if glued_begins_sentence(word, following, before=before, rule=self._rule):
            return True
        if not stopped:
            return False
        # The stop after the word may end a sentence itself.
        self._phase = _Phase.STOP
        self._stop_at, self._cut_at = len(self._held) - 2, len(self._held) - 1
        return self._judge_stop(char)

    def _judge_gap(self, char: str) -> bool | None:
        if char.isspace() or char in OPENERS:
            return None
        if char.islower() or char in CONTINUING:
            return False
        if self._rule is Rule.CASE:
            return True
        if self._rule is Rule.NUMBER:
            return not (char.isdigit() or char == "#")
        if not char.isalpha():
            return False
        self._phase = _Phase.WORD
        self._next_word = char
        return None

    def _stands_alone(self) -> bool:
        if self._phase is _Phase.GAP:
            after = self._held[self._cut_at :]
            return self._rule is Rule.CASE and all(char.isspace() for char in after)
        if self._phase is not _Phase.STOP:
            return False
        marks = self._held[self._stop_at : self._cut_at]
        if marks == ["."] and self._held[self._stop_at - 1].isdigit():
            return False
        rule = classify(self._held, self._stop_at, cut_at=self._cut_at)
        return rule in (Rule.FREE, Rule.CASE)

    def _cut(self, at: int) -> None:
        """Emit the first `at` characters; process the rest again as the start of a text."""
        held = self._held
        self._ready.append("".join(held[:at]).strip())
        self._started = True
        if self._next_lengths:
            self._max_chars = self._next_lengths.pop(0)
        self._begin()
        # Bounded: either the rest follows one stop (at most opening marks and a word), and
        # no later stop lies before it; or `_cut_long` took the last boundary of its kind.
        for char in held[at:]:
            self._advance(char)

    def _cut_long(self) -> None:
        held = "".join(self._held)
        if self._audio_tags:
            # A part of a tag would be spoken.
            held = AUDIO_TAG.sub(lambda tag: "x" * len(tag[0]), held)
        self._cut(cut_point(held, self._max_chars))
