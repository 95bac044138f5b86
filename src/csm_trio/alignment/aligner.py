"""Aligner: estimate the times of a stream's characters while its audio is generated.

The acoustic model distinguishes phone classes, not words, so the times are estimates. The module
must not know how the audio is encoded or sent.
"""

from bisect import bisect_left, bisect_right

import numpy as np
from numpy.typing import NDArray

from csm_trio.alignment.acoustics import WINDOW_MS, AcousticModel
from csm_trio.alignment.alignment import Aligned, tile
from csm_trio.alignment.char_timeline import CharTimeline, Path
from csm_trio.alignment.hmm import LAG_MS, ForwardAligner
from csm_trio.alignment.phonetics import PhoneClass, units_of
from csm_trio.alignment.voice_profiles import VoiceProfiles
from csm_trio.text.spans import SpokenText
from csm_trio.timebase import SAMPLE_RATE_HZ

_SAMPLES_PER_MS = SAMPLE_RATE_HZ // 1000
_SOUND_SHARE = 0.86
"""Fraction of a measured duration that is sound; the rest is pauses and detection delay."""
_MIN_MEASURED_MS = 600.0
"""Shortest duration in ms from which a voice's pace is measured."""


class Aligner:
    """Aligns one stream of audio, sentence after sentence.

    Call `begin`, `feed` with the sentence's frames, and `end`; `take` at any time returns the
    characters begun since the last `take`: over a sentence every character once, in order, and
    the space after it.

    `time_scale` is the duration of the stream over that of the audio fed, where a tempo stage
    follows.
    """

    def __init__(self, profiles: VoiceProfiles, *, time_scale: float = 1.0) -> None:
        self._profiles = profiles
        self._time_scale = time_scale
        self._fed_samples = 0
        self._taken_to_ms = self._last_take_ms = 0
        self._sentence: _SentenceAligner | None = None
        # One timeline for as long as both are equal, as in most streams: it costs half.
        self._written = self._spoken = CharTimeline()

    @property
    def _now_ms(self) -> float:
        return self._fed_samples / _SAMPLES_PER_MS * self._time_scale

    def begin(self, spoken: SpokenText, voice: str) -> None:
        """Start the next sentence; `voice` is the key of its voice profile."""
        assert self._sentence is None, "a sentence begins before the last one ended"
        self._sentence = _SentenceAligner(
            spoken.text, voice, self._profiles, self._now_ms, self._time_scale
        )
        positions = spoken.spoken_positions()
        equal = spoken.text == spoken.written and positions == [*range(len(positions))]
        if equal and self._written.begun == self._spoken.begun:
            self._spoken = self._written
        elif self._spoken is self._written:
            self._spoken = self._written.copy()
        self._written.begin(spoken.written, positions)
        if self._spoken is not self._written:
            self._spoken.begin(spoken.text, range(len(spoken.text)))

    @property
    def _timelines(self) -> tuple[CharTimeline, ...]:
        return (self._written,) if self._spoken is self._written else (self._written, self._spoken)

    def feed(self, pcm: NDArray[np.int16], attended_char: float | None = None) -> None:
        """Take more audio of the stream, at 24 kHz; between two sentences it is a pause.

        `attended_char` is the alignment head's position in the spoken text while `pcm` was made.
        """
        self._fed_samples += len(pcm)
        if self._sentence is None:
            return
        path = self._sentence.advance(pcm, attended_char)
        if path is not None:
            for timeline in self._timelines:
                timeline.follow(path)

    @property
    def chars_left(self) -> float | None:
        """Estimated spoken characters left in the current sentence; None between sentences."""
        return None if self._sentence is None else self._sentence.chars_left

    def end(self) -> None:
        """End the sentence: characters that have not begun begin now; update the voice profile."""
        assert self._sentence is not None, "a sentence ends that never began"
        self._sentence.update_profile(self._profiles)
        self._sentence = None
        for timeline in self._timelines:
            timeline.close(self._now_ms)

    def take(self) -> Aligned | None:
        """Return the characters begun since the last part, over all audio since then, or None.

        White space waits for the character after it, so that no word's start is moved to the
        start of a part; a sentence's trailing white space waits for `end`.
        """
        now_ms = round(self._now_ms)
        last_take_ms, self._last_take_ms = self._last_take_ms, now_ms
        over = self._sentence is None
        counts = [timeline.ready(over=over) for timeline in self._timelines]
        if not all(counts):
            return None
        from_ms, self._taken_to_ms = self._taken_to_ms, now_ms
        alignments = [
            tile(*timeline.take(count), from_ms, now_ms)
            for timeline, count in zip(self._timelines, counts, strict=True)
        ]
        return Aligned(alignments[0], alignments[-1], from_ms, late_ms=last_take_ms - from_ms)


class _SentenceAligner:
    """Alignment state of one sentence that begins at `begun_ms` of the stream."""

    def __init__(
        self, text: str, voice: str, profiles: VoiceProfiles, begun_ms: float, time_scale: float
    ) -> None:
        self._voice, self._profile = voice, profiles.of(voice)
        units = units_of(text)
        self._expected_ms = sum(
            unit.duration_ms for unit in units if unit.phone_class is not PhoneClass.PAUSE
        )
        self._end_position = units[-1].start
        self._acoustics = AcousticModel(self._profile.loudest_db)
        self._forward = ForwardAligner(units, self._profile.pace)
        self._begun_ms, self._time_scale = begun_ms, time_scale
        self._windows = 0
        self._position = 0.0
        self._onset_ms: int | None = None
        self._offset_ms: int | None = None

    @property
    def chars_left(self) -> float:
        return max(0.0, self._end_position - self._position)

    def advance(self, pcm: NDArray[np.int16], attended_char: float | None) -> Path | None:
        """Return the path of the position over this audio; None if it did not move."""
        positions = self._forward.advance(self._acoustics.feed(pcm), attended_char)
        before, self._windows = self._windows, self._windows + len(positions)
        if not positions or positions[-1] == self._position:
            return None
        from_ms = before * WINDOW_MS - LAG_MS
        path = Path(
            [self._position, *positions],
            self._begun_ms + from_ms * self._time_scale,
            WINDOW_MS * self._time_scale,
            self._begun_ms,
        )
        if self._onset_ms is None:
            self._onset_ms = from_ms + WINDOW_MS * bisect_right(path.positions, 0.0)
        self._position = positions[-1]
        if self._offset_ms is None and self._position >= self._end_position:
            reached = bisect_left(path.positions, self._end_position)
            self._offset_ms = from_ms + WINDOW_MS * reached
        return path

    def update_profile(self, profiles: VoiceProfiles) -> None:
        """Update the voice profile with this sentence's pace and level."""
        pace = None
        if self._onset_ms is not None and self._offset_ms is not None:
            measured_ms = self._offset_ms - self._onset_ms
            pace = (
                _SOUND_SHARE * measured_ms / self._expected_ms
                if measured_ms >= _MIN_MEASURED_MS
                else None
            )
        profiles.keep(self._voice, self._profile.after(pace, self._acoustics.loudest_db))
