"""What was said lately: a request's id or text in, the last turns of its speech out.

Kept in memory for a while and bounded by count, bytes and age, whoever asks for it.
"""

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

import trio

from csm_trio.config import SpeechConfig
from csm_trio.engine.utterance import PromptSegment

_MATCHED_WORDS = 100
"""Two texts that agree in their last words so far are taken for the same."""


@dataclass(slots=True)
class _Said:
    """One request: the end of its text, and the end of its speech."""

    voice_id: str
    words: list[str]
    text_bytes: int
    begun_s: float
    turns: deque[PromptSegment]

    @property
    def n_bytes(self) -> int:
        return self.text_bytes + sum(turn.codes.nbytes + 4 * len(turn.text) for turn in self.turns)


class RequestHistory:
    """The last turns of recent requests, in the order in which they began to be heard.

    Of each request the last `history_sentences` sentences are kept.
    """

    def __init__(self, config: SpeechConfig) -> None:
        self._config = config
        self._said: dict[str, _Said] = {}
        self._n_bytes = 0

    def recorder(
        self, request_id: str, voice_id: str, text: str
    ) -> Callable[[PromptSegment], None]:
        """Return what a request of this text is to tell each of its turns to."""
        words = text.split()[-_MATCHED_WORDS:]
        text_bytes = 4 * sum(map(len, words))

        def record(turn: PromptSegment) -> None:
            said = self._said.get(request_id)
            if said is None:
                turns = deque[PromptSegment](maxlen=self._config.history_sentences)
                begun_s = trio.current_time()
                said = self._said[request_id] = _Said(voice_id, words, text_bytes, begun_s, turns)
            else:
                self._n_bytes -= said.n_bytes
            said.turns.append(turn)
            self._n_bytes += said.n_bytes
            self._forget()

        return record

    def segments_of(self, request_ids: Collection[str], voice_id: str) -> tuple[PromptSegment, ...]:
        """Return the turns of the voice's among these requests, oldest first."""
        self._forget()
        known = [
            said
            for request_id, said in self._said.items()
            if request_id in request_ids and said.voice_id == voice_id
        ]
        return tuple(turn for said in known for turn in said.turns)

    def segments_before(self, previous_text: str, voice_id: str) -> tuple[PromptSegment, ...]:
        """Return the turns of the voice's latest request that `previous_text` ends with.

        A client may say all that went before, or only the end of it: one text must end with the
        other, word for word.
        """
        self._forget()
        words = previous_text.split()[-_MATCHED_WORDS:]
        for said in reversed(self._said.values()):
            shared = min(len(words), len(said.words))
            if said.voice_id == voice_id and shared and words[-shared:] == said.words[-shared:]:
                return tuple(said.turns)
        return ()

    def _forget(self) -> None:
        """Drop the oldest until what is left is within every bound."""
        config, now_s = self._config, trio.current_time()
        while self._said:
            request_id, oldest = next(iter(self._said.items()))
            if (
                len(self._said) <= config.kept_requests
                and self._n_bytes <= config.kept_bytes
                and now_s - oldest.begun_s <= config.kept_s
            ):
                break
            del self._said[request_id]
            self._n_bytes -= oldest.n_bytes
