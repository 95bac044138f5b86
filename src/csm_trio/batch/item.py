"""One text to synthesize into one file, and the identity by which finished work is found again."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from csm_trio.audio.formats import AudioFormat
from csm_trio.protocol.speech_fields import SPEED_RANGE


class BadInput(Exception):
    """The input, a flag or the output folder cannot be used; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Item:
    """One text in one voice and format; `file` is its name in the output folder.

    `settings` are fields of a speech request. `start_s` is the time of a subtitle, `window_s` the
    time until the next one; both are None elsewhere, and `window_s` is None for the last subtitle.
    """

    index: int
    line: int
    text: str
    voice_id: str
    audio_format: AudioFormat
    file: str
    settings: Mapping[str, float] = field(default_factory=dict)
    speed: float = 1.0
    loudness_lufs: float | None = None
    pause_s: float | None = None
    chapter: str | None = None
    start_s: float | None = None
    window_s: float | None = None

    @property
    def text_hash(self) -> str:
        """SHA-256 of the text."""
        return sha256(self.text.encode("utf-8"))

    @property
    def settings_hash(self) -> str:
        """SHA-256 of everything beside the text that the audio depends on."""
        depends_on = {
            "voice": self.voice_id,
            "format": self.audio_format.name,
            "settings": dict(self.settings),
            "speed": self.speed,
            "loudness": self.loudness_lufs,
        }
        return sha256(json.dumps(depends_on, sort_keys=True).encode("utf-8"))

    @property
    def request_key(self) -> tuple[str, str]:
        """The hashes of text and settings: items with equal ones ask for the same speech."""
        return self.text_hash, self.settings_hash

    def speed_for(self, natural_s: float) -> float:
        """Return the speed at which audio of `natural_s` at the item's own speed fits its window.

        At most the fastest that a request may ask for; in steps of 0.01.
        """
        if self.window_s is None or natural_s <= self.window_s:
            return self.speed
        if self.window_s <= 0:
            return SPEED_RANGE[1]
        # Rounded up, without the noise of the division.
        needed = math.ceil(round(100 * self.speed * natural_s / self.window_s, 6)) / 100
        return min(SPEED_RANGE[1], needed)


def sha256(data: bytes) -> str:
    """Return the SHA-256 of bytes in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
