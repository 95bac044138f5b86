"""Stop rows that do not stop by themselves: CSM's end of speech is not reliable.

The windows are long and look at all codebooks: guards that forced an end after a few equal
codes are known to truncate ordinary speech, and short texts must stay complete.
"""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from csm_trio.engine.utterance import (
    REPEAT_WINDOW_FRAMES,
    SILENCE_WINDOW_FRAMES,
    EndReason,
    Frame,
)

MAX_PERIOD_FRAMES = 8
SILENCE_FLOOR = 100
"""Peak of 16-bit samples under which a frame counts as silent: about -50 dBFS."""

_NO_RUNS = [0] * (MAX_PERIOD_FRAMES + 1)


class RunawayGuard:
    """Watches one utterance; a new one is made with every slot that opens."""

    def __init__(self, max_frames: int) -> None:
        self._frames_left = max_frames
        self._recent: deque[bytes] = deque(maxlen=MAX_PERIOD_FRAMES)
        self._run_lengths = _NO_RUNS.copy()
        self._silent_frames = 0

    def observe(self, frame: Frame) -> EndReason | None:
        """Take the next frame; return why it must be the last, or None to go on."""
        self._frames_left -= 1
        self._silent_frames = self._silent_frames + 1 if _is_silent(frame.pcm) else 0
        if self._frames_left <= 0:
            return EndReason.CAPPED
        if self._repeats(frame.codes.tobytes()):
            return EndReason.REPEATING
        if self._silent_frames >= SILENCE_WINDOW_FRAMES:
            return EndReason.SILENT
        return None

    def _repeats(self, codes: bytes) -> bool:
        if codes not in self._recent:  # nearly always; this runs for every row of every step
            self._recent.append(codes)
            self._run_lengths = _NO_RUNS.copy()
            return False
        for period in range(1, len(self._recent) + 1):
            same = self._recent[-period] == codes
            self._run_lengths[period] = self._run_lengths[period] + 1 if same else 0
        self._recent.append(codes)
        return max(self._run_lengths) >= REPEAT_WINDOW_FRAMES


def _is_silent(pcm: NDArray[np.int16]) -> bool:
    return bool(pcm.max(initial=0) < SILENCE_FLOOR and pcm.min(initial=0) > -SILENCE_FLOOR)
