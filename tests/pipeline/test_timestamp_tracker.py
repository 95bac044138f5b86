"""Which samples of a chunk the timestamp tracker aligns together."""

import numpy as np
from numpy.typing import NDArray

from csm_trio.alignment.aligner import Aligner
from csm_trio.alignment.voice_profiles import VoiceProfiles
from csm_trio.engine.utterance import Frame
from csm_trio.pipeline.encoding import TimestampTracker
from csm_trio.pipeline.stream_items import SentenceBegin, SentenceEnd, StreamItem
from csm_trio.text.spans import TracedText

SAMPLES = 1_920


class RecordingAligner(Aligner):
    """An aligner that records what it is fed: the first sample of each frame, and attention."""

    def __init__(self) -> None:
        super().__init__(VoiceProfiles())
        self.fed: list[tuple[list[int], float | None]] = []

    def feed(self, pcm: NDArray[np.int16], attended_char: float | None = None) -> None:
        self.fed.append((pcm[::SAMPLES].tolist(), attended_char))
        super().feed(pcm, attended_char)


def frame(number: int, attended_char: float | None) -> Frame:
    pcm = np.full(SAMPLES, number, dtype=np.int16)
    return Frame(pcm, np.zeros(32, dtype=np.int16), attended_char)


def test_consecutive_frames_with_the_same_attention_are_aligned_in_one_call() -> None:
    aligner = RecordingAligner()
    attended = [None, None, 3.0, 3.0, 5.0]
    frames = [frame(number, char) for number, char in enumerate(attended)]
    begin, end = SentenceBegin(TracedText("Hello.").finish(), "a voice"), SentenceEnd()
    chunk: list[StreamItem] = [begin, *frames, end, begin, frame(5, 5.0), end]
    pcm = np.concatenate([item.pcm for item in chunk if isinstance(item, Frame)])
    aligned = TimestampTracker(aligner).advance(chunk, pcm, always=True)
    assert aligner.fed == [([0, 1], None), ([2, 3], 3.0), ([4], 5.0), ([5], 5.0)]
    assert aligned is not None
    assert "".join(aligned.written.chars) == "Hello. Hello. "
    assert aligned.written.end_ms == 6 * 80


def test_a_chunk_without_items_returns_what_is_left() -> None:
    nothing = np.zeros(0, dtype=np.int16)
    assert TimestampTracker(RecordingAligner()).advance((), nothing, always=True) is None
