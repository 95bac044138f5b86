"""Prompt segments of recent REST requests, found by request id or by previous text.

Kept in memory, bounded by count, bytes and age.
"""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

import trio

from csm_trio.config import SpeechConfig
from csm_trio.engine.utterance import PromptSegment

_MATCHED_WORDS = 100
"""Number of last words by which a previous text is matched with a request's text."""

_MIN_MATCHED_WORDS = 3
"""Number of words that must match: many callers share a shorter text."""


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """What a request is found by; `client` is whose request it is."""

    request_id: str
    voice_id: str
    client: str
    words: tuple[str, ...]

    @classmethod
    def of(cls, request_id: str, voice_id: str, text: str, *, client: str) -> "RecordedRequest":
        """Return the record of a request with this text, of which the last words are kept."""
        return cls(request_id, voice_id, client, _last_words(text))


def _last_words(text: str) -> tuple[str, ...]:
    return tuple(text.split()[-_MATCHED_WORDS:])


@dataclass(slots=True)
class _Request:
    """One request and its last segments."""

    key: RecordedRequest
    begun_s: float
    segments: deque[PromptSegment]

    @property
    def n_bytes(self) -> int:
        return 4 * sum(map(len, self.key.words)) + sum(
            segment.codes.nbytes + 4 * len(segment.text) for segment in self.segments
        )


class RequestHistory:
    """The last segments of recent requests, in the order in which their audio began.

    Keeps the last `history_sentences` sentences of each request.
    """

    def __init__(self, config: SpeechConfig) -> None:
        self._config = config
        self._requests: dict[str, _Request] = {}
        self._n_bytes = 0

    def record(self, key: RecordedRequest, segment: PromptSegment) -> None:
        """Add a segment of a request."""
        request = self._requests.get(key.request_id)
        if request is None:
            segments = deque[PromptSegment](maxlen=self._config.history_sentences)
            request = _Request(key, trio.current_time(), segments)
            self._requests[key.request_id] = request
        else:
            self._n_bytes -= request.n_bytes
        request.segments.append(segment)
        self._n_bytes += request.n_bytes
        self._evict()

    def segments_of(self, request_ids: Collection[str], voice_id: str) -> tuple[PromptSegment, ...]:
        """Return the voice's segments of these requests, oldest first."""
        self._evict()
        known = [
            request
            for request_id, request in self._requests.items()
            if request_id in request_ids and request.key.voice_id == voice_id
        ]
        return tuple(segment for request in known for segment in request.segments)

    def segments_before(
        self, previous_text: str, voice_id: str, *, client: str
    ) -> tuple[PromptSegment, ...]:
        """Return the segments of the client's latest request whose text matches `previous_text`.

        Clients send all of the previous text or only its end: one text must end with the other,
        word for word, and in three words at least.
        """
        self._evict()
        words = _last_words(previous_text)
        for request in reversed(self._requests.values()):
            key = request.key
            shared = min(len(words), len(key.words))
            if (
                (key.voice_id, key.client) == (voice_id, client)
                and shared >= _MIN_MATCHED_WORDS
                and words[-shared:] == key.words[-shared:]
            ):
                return tuple(request.segments)
        return ()

    def _evict(self) -> None:
        """Evict the oldest requests until the rest is within every bound."""
        config, now_s = self._config, trio.current_time()
        while self._requests:
            request_id, oldest = next(iter(self._requests.items()))
            if (
                len(self._requests) <= config.kept_requests
                and self._n_bytes <= config.kept_bytes
                and now_s - oldest.begun_s <= config.kept_s
            ):
                break
            del self._requests[request_id]
            self._n_bytes -= oldest.n_bytes
