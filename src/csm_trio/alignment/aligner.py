"""Sentences and their audio in, characters with times out, as the audio passes.

An estimate: it hears kinds of sound, not words. It must not know what the audio is encoded to
nor how it is sent.
"""

import numpy as np
from numpy.typing import NDArray

from csm_trio.alignment.acoustics import AcousticModel
from csm_trio.alignment.alignment import Aligned, tiled
from csm_trio.alignment.char_timeline import CharTimeline
from csm_trio.alignment.hmm import ForwardAligner
from csm_trio.alignment.phonetics import PhoneClass, units_of
from csm_trio.alignment.voice_profiles import VoiceProfiles
from csm_trio.text.spans import SpokenText
from csm_trio.timebase import SAMPLE_RATE_HZ

_SAMPLES_PER_MS = SAMPLE_RATE_HZ // 1000
_MEASURED = 0.86
"""Gaps and late notice are in what is measured: of this share of it, a usual voice has pace 1."""
_LEAST_MEASURED_MS = 600.0
"""Shorter sentences say little of a voice's pace."""


class Aligner:
    """Aligns one stream of audio, sentence after sentence.

    `begin`, `feed` its frames, `end`; `take` at any time returns what has begun since. Over a
    sentence that is every character of it, once and in order, and the space after it.

    `time_scale` is how much longer the stream lasts than what is fed, where a tempo stage follows.
    """

    def __init__(self, profiles: VoiceProfiles, *, time_scale: float = 1.0) -> None:
        self._profiles = profiles
        self._time_scale = time_scale
        self._fed_samples = 0
        self._taken_ms = self._asked_ms = 0
        self._sentence: _SentenceAligner | None = None
        self._written, self._spoken = CharTimeline(), CharTimeline()

    @property
    def _now_ms(self) -> float:
        return self._fed_samples / _SAMPLES_PER_MS * self._time_scale

    def begin(self, spoken: SpokenText, voice: str) -> None:
        """Take the next sentence, and whose voice says it."""
        assert self._sentence is None, "a sentence begins before the last one ended"
        self._sentence = _SentenceAligner(spoken.text, voice, self._profiles, self._now_ms)
        self._written.begin(spoken.written, spoken.spoken_positions())
        self._spoken.begin(spoken.text, range(len(spoken.text)))

    def feed(self, pcm: NDArray[np.int16], attended_char: float | None = None) -> None:
        """Hear more of the stream, at 24 kHz; between two sentences it is a pause.

        `glance` is the spoken character that the model looked at while it made `pcm`, if known.
        """
        self._fed_samples += len(pcm)
        if self._sentence is None:
            return
        for leg in self._sentence.advance(pcm, attended_char, self._time_scale):
            self._written.reach(*leg)
            self._spoken.reach(*leg)

    @property
    def chars_left(self) -> float | None:
        """How many spoken characters the sentence under way seems to have left; None without."""
        return None if self._sentence is None else self._sentence.chars_left

    def end(self) -> None:
        """Note that the sentence is over: what has not begun begins now."""
        assert self._sentence is not None, "a sentence ends that never began"
        self._sentence.update_profile(self._profiles)
        self._sentence = None
        self._written.close(self._now_ms)
        self._spoken.close(self._now_ms)

    def take(self) -> Aligned | None:
        """Return what has begun since the last time, over all audio since then; None if nothing.

        White space waits for the character after it, so that no word's start is moved to where a
        piece begins; the last of a sentence waits for the sentence's end.
        """
        now_ms = round(self._now_ms)
        asked_ms, self._asked_ms = self._asked_ms, now_ms
        over = self._sentence is None
        written, spoken = self._written.ready(over=over), self._spoken.ready(over=over)
        if not written or not spoken:
            return None
        from_ms, self._taken_ms = self._taken_ms, now_ms
        return Aligned(
            tiled(*self._written.take(written), from_ms, now_ms),
            tiled(*self._spoken.take(spoken), from_ms, now_ms),
            from_ms,
            late_ms=asked_ms - from_ms,
        )


Leg = tuple[float, float, float, float]
"""From a time and a place to a time and a place: ms of the stream, spoken characters."""


class _SentenceAligner:
    """Follows one sentence from when it begins in the stream."""

    def __init__(self, text: str, voice: str, profiles: VoiceProfiles, begun_ms: float) -> None:
        self._voice, self._profile = voice, profiles.of(voice)
        units = units_of(text)
        self._usual_ms = sum(
            unit.duration_ms for unit in units if unit.sound is not PhoneClass.PAUSE
        )
        self._last_place = units[-1].start
        self._acoustics = AcousticModel(self._profile.loudest_db)
        self._forward = ForwardAligner(units, self._profile.pace)
        self._begun_ms = begun_ms
        self._at = (begun_ms, 0.0)
        self._onset_ms: float | None = None
        self._offset_ms: float | None = None

    @property
    def chars_left(self) -> float:
        return max(0.0, self._last_place - self._at[1])

    def advance(
        self, pcm: NDArray[np.int16], attended_char: float | None, time_scale: float
    ) -> list[Leg]:
        """Return the way that the speaker went meanwhile."""
        legs: list[Leg] = []
        for ms, place in self._forward.advance(self._acoustics.feed(pcm), attended_char):
            if place and self._onset_ms is None:
                self._onset_ms = ms
            if place >= self._last_place and self._offset_ms is None:
                self._offset_ms = ms
            to = (self._begun_ms + ms * time_scale, place)
            legs.append((*self._at, *to))
            self._at = to
        return legs

    def update_profile(self, profiles: VoiceProfiles) -> None:
        """Keep what this sentence said of its voice."""
        pace = None
        if self._onset_ms is not None and self._offset_ms is not None:
            took_ms = self._offset_ms - self._onset_ms
            pace = _MEASURED * took_ms / self._usual_ms if took_ms >= _LEAST_MEASURED_MS else None
        profiles.keep(self._voice, self._profile.after(pace, self._acoustics.loudest_db))
