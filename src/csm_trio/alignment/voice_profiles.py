"""Voice profiles: the pace and level measured of each voice, kept in a bounded cache."""

from collections import OrderedDict
from dataclasses import dataclass

from csm_trio.alignment.acoustics import DEFAULT_LOUDEST_DB

_NEWEST_WEIGHT = 0.2  # of a new pace in the moving average
_MIN_PACE, _MAX_PACE = 0.6, 1.8
"""Range of plausible paces: outside it the sentence was not spoken as written."""


@dataclass(frozen=True, slots=True)
class VoiceProfile:
    """Measured pace (durations relative to the expected ones) and level of the loudest window."""

    pace: float = 1.0
    loudest_db: float = DEFAULT_LOUDEST_DB

    def after(self, pace: float | None, loudest_db: float) -> "VoiceProfile":
        """Return the profile after one more sentence; `pace` is None if it was not measured."""
        if pace is None or not _MIN_PACE < pace < _MAX_PACE:
            return VoiceProfile(self.pace, loudest_db)
        return VoiceProfile(self.pace + _NEWEST_WEIGHT * (pace - self.pace), loudest_db)


class VoiceProfiles:
    """Cache of the `capacity` most recently stored voice profiles."""

    def __init__(self, capacity: int = 256) -> None:
        self._capacity = capacity
        self._profiles: OrderedDict[str, VoiceProfile] = OrderedDict()

    def __len__(self) -> int:
        return len(self._profiles)

    def of(self, voice: str) -> VoiceProfile:
        """Return the voice's profile, or the default profile where none is kept."""
        return self._profiles.get(voice, VoiceProfile())

    def keep(self, voice: str, profile: VoiceProfile) -> None:
        """Store a voice's profile; evict the least recently stored one beyond `capacity`."""
        self._profiles[voice] = profile
        self._profiles.move_to_end(voice)
        if len(self._profiles) > self._capacity:
            self._profiles.popitem(last=False)
