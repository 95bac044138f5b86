"""Text front end: turn text deltas into normalized sentences and pauses, in order."""

import math
from collections.abc import Iterable, Sequence

from csm_trio.text.cutting import kept_spaces
from csm_trio.text.duration import split_points
from csm_trio.text.normalization.normalize import Normalization, normalize
from csm_trio.text.segment import Segmenter
from csm_trio.text.spans import SpokenText
from csm_trio.text.ssml import MAX_BREAK_MS, Break, Part, TagReader

SpokenSentence = SpokenText | Break
"""A normalized sentence, or part of one, or a pause."""


class TextFrontend:
    """Read tags, segment sentences and normalize them while the text arrives.

    A pause ends a sentence. Pauses without text between them together last at most `MAX_BREAK_MS`,
    since silence needs no slot and would be unlimited. With `audio_tags`, text in square brackets
    is not spoken. `chunk_lengths` are the `Segmenter`'s. A
    sentence that a slow voice cannot speak in `limit_s` is split into parts. `feed` and `finish`
    raise `InvalidRequest` for invalid SSML, see `TagReader`.
    """

    def __init__(
        self,
        *,
        normalization: Normalization = "auto",
        ssml: bool = False,
        audio_tags: bool = False,
        chunk_lengths: Sequence[int] = (),
        limit_s: float = math.inf,
    ) -> None:
        self._normalization = normalization
        self._limit_s = limit_s
        self._tags = TagReader(ssml=ssml)
        self._audio_tags = audio_tags
        self._segmenter = Segmenter(chunk_lengths=chunk_lengths, audio_tags=audio_tags)
        self._silence_left_ms = MAX_BREAK_MS

    def feed(self, delta: str) -> list[SpokenSentence]:
        """Take the next delta; return the sentences and pauses that it completes."""
        return self._read(self._tags.feed(delta))

    def trigger(self) -> list[SpokenSentence]:
        """Return what can be generated now; see `Segmenter.trigger`."""
        return self._normalize_all(self._segmenter.trigger())

    def flush(self) -> list[SpokenSentence]:
        """Return all held text except an unfinished tag."""
        return self._normalize_all(self._segmenter.flush())

    def finish(self) -> list[SpokenSentence]:
        """Return all held text; the input ends here."""
        return [*self._read(self._tags.finish()), *self.flush()]

    def _read(self, parts: Iterable[Part]) -> list[SpokenSentence]:
        found: list[SpokenSentence] = []
        for part in parts:
            if isinstance(part, str):
                found += self._normalize_all(self._segmenter.feed(part))
                continue
            found += self.flush()
            duration_ms = min(part.duration_ms, self._silence_left_ms)
            self._silence_left_ms -= duration_ms
            found.append(Break(duration_ms))
        return found

    def _normalize_all(self, sentences: Iterable[str]) -> list[SpokenSentence]:
        normalized = [
            normalize(sentence, self._normalization, audio_tags=self._audio_tags)
            for sentence in sentences
        ]
        parts: list[SpokenSentence] = [
            text.part(start, end)
            for text in normalized
            for start, end in split_points(text.text, self._limit_s, _free_spaces(text))
            if start < end
        ]
        if parts:
            self._silence_left_ms = MAX_BREAK_MS
        return parts


def _free_spaces(text: SpokenText) -> set[int]:
    """Return the positions in the spoken text of written spaces where it may be cut."""
    kept = kept_spaces(text.written)
    return {spoken for spoken, written in text.word_spaces().items() if written not in kept}
