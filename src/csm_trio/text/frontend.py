"""Deltas of text as people write it in; what to say, and where to be silent, out, in order."""

import math
from collections.abc import Iterable, Sequence

from csm_trio.text.duration import split_points
from csm_trio.text.normalization.normalize import Normalization, verbalize
from csm_trio.text.segment import Segmenter
from csm_trio.text.spans import SpokenText
from csm_trio.text.ssml import MAX_BREAK_MS, Break, Part, TagReader

SpokenSentence = SpokenText | Break


class TextFrontend:
    """Read tags, cut sentences, and say each in words, while the text arrives.

    A pause ends a sentence. Pauses with nothing said between them are no longer together than the
    longest may be: silence costs no slot, so text must pay for it. `chunk_lengths` are the
    `Segmenter`'s. What a slow voice cannot say in `limit_s` comes in parts. Raises what
    `TagReader` does.
    """

    def __init__(
        self,
        *,
        normalization: Normalization = "auto",
        ssml: bool = False,
        chunk_lengths: Sequence[int] = (),
        limit_s: float = math.inf,
    ) -> None:
        self._normalization = normalization
        self._limit_s = limit_s
        self._tags = TagReader(ssml=ssml)
        self._sentences = Segmenter(chunk_lengths=chunk_lengths)
        self._silence_left_ms = MAX_BREAK_MS

    def feed(self, delta: str) -> list[SpokenSentence]:
        """Take the next piece of text; return what it makes certain."""
        return self._read(self._tags.feed(delta))

    def trigger(self) -> list[SpokenSentence]:
        """Return what can stand alone now; see `Segmenter.trigger`."""
        return self._say(self._sentences.trigger())

    def flush(self) -> list[SpokenSentence]:
        """Return all that is held but an unfinished tag."""
        return self._say(self._sentences.flush())

    def finish(self) -> list[SpokenSentence]:
        """Return all that is held, as though the text ended here."""
        return [*self._read(self._tags.finish()), *self.flush()]

    def _read(self, parts: Iterable[Part]) -> list[SpokenSentence]:
        lines: list[SpokenSentence] = []
        for part in parts:
            if isinstance(part, str):
                lines += self._say(self._sentences.feed(part))
                continue
            lines += self.flush()
            duration_ms = min(part.duration_ms, self._silence_left_ms)
            self._silence_left_ms -= duration_ms
            lines.append(Break(duration_ms))
        return lines

    def _say(self, sentences: Iterable[str]) -> list[SpokenSentence]:
        spoken = [verbalize(sentence, self._normalization) for sentence in sentences]
        lines: list[SpokenSentence] = [
            line.part(start, end)
            for line in spoken
            for start, end in split_points(line.text, self._limit_s, line.word_spaces())
            if start < end
        ]
        if lines:
            self._silence_left_ms = MAX_BREAK_MS
        return lines
