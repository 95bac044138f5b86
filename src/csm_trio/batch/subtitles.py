"""SubRip (SRT): subtitles in, their times and texts out."""

import re
from dataclasses import dataclass

from csm_trio.batch.item import BadInput

_TIME = r"(\d{1,3}):([0-5]?\d):([0-5]?\d)[,.](\d{1,3})"
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}\b.*")
# Players read these two ways to mark italics, color and position.
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|\{\\[^{}]*\}")


@dataclass(frozen=True, slots=True)
class Subtitle:
    """One subtitle: the line of its times in the file, its start, and its text in one line."""

    line: int
    start_s: float
    text: str


def read_subtitles(lines: list[str]) -> list[Subtitle]:
    """Return the subtitles that have text, in the order of their starts; raise `BadInput`."""
    subtitles: list[Subtitle] = []
    at = 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        if lines[at].strip().isdecimal() and at + 1 < len(lines):
            at += 1
        times = _TIMES.fullmatch(lines[at])
        if times is None:
            raise BadInput(f"line {at + 1} must be the times of a subtitle, 00:00:01,000 --> …")
        line, at = at + 1, at + 1
        texts = []
        while at < len(lines) and lines[at].strip():
            texts.append(lines[at].strip())
            at += 1
        text = _MARKUP.sub("", " ".join(texts)).strip()
        if text:
            subtitles.append(Subtitle(line, _seconds(*times.groups()[:4]), text))
    return sorted(subtitles, key=lambda subtitle: subtitle.start_s)


def _seconds(hours: str, minutes: str, seconds: str, fraction: str) -> float:
    whole_s = (int(hours) * 60 + int(minutes)) * 60 + int(seconds)
    return whole_s + int(fraction.ljust(3, "0")) / 1000
