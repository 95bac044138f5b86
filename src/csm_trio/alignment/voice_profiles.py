"""What is known of each voice's way of speaking from what it has said; bounded."""

from collections import OrderedDict
from dataclasses import dataclass

from csm_trio.alignment.acoustics import USUAL_LOUDEST_DB

_NEWEST_SHARE = 0.2
_LEAST_PACE, _MOST_PACE = 0.6, 1.8
"""A sentence outside was not spoken as written: it says nothing of the voice."""


@dataclass(frozen=True, slots=True)
class VoiceProfile:
    """How a voice speaks: how much slower than usual, and how loud where it is loudest."""

    pace: float = 1.0
    loudest_db: float = USUAL_LOUDEST_DB

    def after(self, pace: float | None, loudest_db: float) -> "VoiceProfile":
        """Return what is thought after one more sentence; `pace` None where it told nothing."""
        if pace is None or not _LEAST_PACE < pace < _MOST_PACE:
            return VoiceProfile(self.pace, loudest_db)
        return VoiceProfile(self.pace + _NEWEST_SHARE * (pace - self.pace), loudest_db)


class VoiceProfiles:
    """The voices heard last, at most `room` of them."""

    def __init__(self, capacity: int = 256) -> None:
        self._capacity = capacity
        self._known: OrderedDict[str, VoiceProfile] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def of(self, voice: str) -> VoiceProfile:
        """Return the voice's manner; the usual one where it was not heard lately."""
        return self._known.get(voice, VoiceProfile())

    def keep(self, voice: str, profile: VoiceProfile) -> None:
        """Keep a voice's manner; without room, forget the one kept longest ago."""
        self._known[voice] = profile
        self._known.move_to_end(voice)
        if len(self._known) > self._capacity:
            self._known.popitem(last=False)
