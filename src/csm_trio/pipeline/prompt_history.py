"""The prompt segments that precede the next sentence of a context."""

from collections.abc import Sequence

from csm_trio.engine.utterance import PromptSegment


class PromptHistory:
    """The last segments of each speaker of a context, at most `max_per_speaker` of each.

    The segments given as `before` are all kept until new ones replace them.
    """

    def __init__(self, max_per_speaker: int, *, before: Sequence[PromptSegment] = ()) -> None:
        self._max_per_speaker = max(max_per_speaker, len(before))
        self._segments = list(before)

    def add(self, segment: PromptSegment) -> None:
        """Add a segment; evict its speaker's oldest over the limit."""
        self._segments.append(segment)
        own = [one for one in self._segments if one.speaker_id == segment.speaker_id]
        if len(own) > self._max_per_speaker:
            self._segments = [one for one in self._segments if one is not own[0]]

    def prompt_for(self, speaker_id: int, *, others: bool) -> tuple[PromptSegment, ...]:
        """Return the segments of this speaker, with `others` of all speakers, oldest first."""
        return tuple(
            segment for segment in self._segments if others or segment.speaker_id == speaker_id
        )
