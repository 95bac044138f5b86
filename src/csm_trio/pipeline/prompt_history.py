"""What was said in a context, in order, as the next sentence's prompt is to hear it."""

from collections.abc import Sequence

from csm_trio.engine.utterance import PromptSegment


class PromptHistory:
    """The last turns of each speaker of a context, as many as `max_per_speaker`.

    What was said `before` it stays whole until new turns take its place.
    """

    def __init__(self, max_per_speaker: int, *, before: Sequence[PromptSegment] = ()) -> None:
        self._max_per_speaker = max(max_per_speaker, len(before))
        self._turns = list(before)

    def add(self, turn: PromptSegment) -> None:
        """Note a turn, and forget its speaker's oldest if there are too many."""
        self._turns.append(turn)
        own = [one for one in self._turns if one.speaker_id == turn.speaker_id]
        if len(own) > self._max_per_speaker:
            self._turns = [one for one in self._turns if one is not own[0]]

    def prompt_for(self, speaker_id: int, *, others: bool) -> tuple[PromptSegment, ...]:
        """Return the turns of this speaker, and with `others` everybody's, oldest first."""
        return tuple(turn for turn in self._turns if others or turn.speaker_id == speaker_id)
