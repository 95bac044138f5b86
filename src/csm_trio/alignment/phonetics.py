"""Map English spelling to expected sounds: phone class, characters, and duration of each.

The module must not know the audio. The milliseconds are least squares over forced alignments of 160
sentences of the embedded voice's four speakers, rounded; a voice profile's pace scales them.
"""

import enum
import unicodedata
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple


class PhoneClass(enum.IntEnum):
    """Classes of phones that loudness and brightness separate."""

    PAUSE = 0
    STOP = 1
    """A closure and its burst: p, t, k, b, d, g."""
    SIBILANT = 2
    """s, z, sh, ch, j."""
    FRICATIVE = 3
    """f, v, th, h."""
    SONORANT = 4
    """Nasals, liquids and glides."""
    VOWEL = 5


class Unit(NamedTuple):
    """Characters [start, end) that make one sound, for `duration_ms` on average.

    `skip_probability` is that of the sound being absent, as the pause at a space often is.
    """

    start: float
    end: float
    phone_class: PhoneClass
    duration_ms: float
    skip_probability: float = 0.0


_VOWELS = frozenset("aeiouy")
_MARKS = frozenset(".,;:!?")
_SPOKEN_MARKS = frozenset("%&@#*/")
_PAIRS = {
    **dict.fromkeys(("th", "ph"), PhoneClass.FRICATIVE),
    **dict.fromkeys(("sh", "ch"), PhoneClass.SIBILANT),
    **dict.fromkeys(("ck", "qu"), PhoneClass.STOP),
    **dict.fromkeys(("gh", "wh", "kn", "wr", "ng"), PhoneClass.SONORANT),
}
_SINGLES = {
    **dict.fromkeys("bpdtkgcqx", PhoneClass.STOP),
    **dict.fromkeys("szj", PhoneClass.SIBILANT),
    **dict.fromkeys("fvh", PhoneClass.FRICATIVE),
    **dict.fromkeys("lmnrwy", PhoneClass.SONORANT),
}
_SOFT_C = frozenset("eiy")
_CONSONANT_MS = {
    PhoneClass.STOP: 74.0,
    PhoneClass.SIBILANT: 90.0,
    PhoneClass.FRICATIVE: 70.0,
    PhoneClass.SONORANT: 66.0,
}
_SHORT_VOWEL_MS, _LONG_VOWEL_MS = 72.0, 88.0
_SILENT_E_MS = 55.0  # added by a silent final e to the sound before it
_NAMED_LETTER_MS, _DIGIT_MS, _SYMBOL_MS, _OTHER_SCRIPT_MS = 180.0, 300.0, 400.0, 160.0
_WORD_END_MS = 8.0  # the last sound of a word is longer
_PHRASE_END_MS = 50.0  # the last two before a pause are longer still
_SPACE_MS, _PAUSE_MS, _LEADING_MS, _TRAILING_MS = 60.0, 120.0, 50.0, 4000.0
_SKIPPED_SPACE, _SKIPPED_PAUSE = 0.93, 0.3
_LONGEST_SPELLED_WORD = 5


def units_of(text: str) -> list[Unit]:
    """Return the expected sounds of `text`, with a pause before and one after.

    They cover its characters in order. Linear in the length of `text`.
    """
    units = [Unit(0, 0, PhoneClass.PAUSE, _LEADING_MS)]
    end = 0
    for kind, chars in groupby(text, _kind):
        at, end = end, end + len(tuple(chars))
        match kind:
            case "letter":
                units += _word(text, at, end)
            case "silent":
                units.append(_gap(text, at, end))
            case _:
                units += [_spoken_symbol(text[i], i) for i in range(at, end)]
    units = _lengthened(units)
    if units[-1].phone_class is PhoneClass.PAUSE and len(units) > 1:
        last = units.pop()
        return [*units, Unit(last.start, len(text), PhoneClass.PAUSE, _TRAILING_MS)]
    return [*units, Unit(len(text), len(text), PhoneClass.PAUSE, _TRAILING_MS)]


@lru_cache(maxsize=1024)
def _kind(char: str) -> str:
    if char.isalpha():
        return "letter"
    if unicodedata.category(char)[0] in "PCMZ" and char not in _SPOKEN_MARKS:
        return "silent"
    return "other"


def _gap(text: str, start: int, end: int) -> Unit:
    if _MARKS.isdisjoint(text[start:end]):
        return Unit(start, end, PhoneClass.PAUSE, _SPACE_MS, _SKIPPED_SPACE)
    return Unit(start, end, PhoneClass.PAUSE, _PAUSE_MS, _SKIPPED_PAUSE)


def _spoken_symbol(char: str, at: int) -> Unit:
    return Unit(at, at + 1, PhoneClass.VOWEL, _DIGIT_MS if char.isdigit() else _SYMBOL_MS)


def _word(text: str, start: int, end: int) -> list[Unit]:
    word = text[start:end]
    if word.isupper() and word not in ("I", "A") and len(word) <= _LONGEST_SPELLED_WORD:
        return [Unit(i, i + 1, PhoneClass.VOWEL, _NAMED_LETTER_MS) for i in range(start, end)]
    letters = word.lower() if word.isascii() else "".join(map(_base_letter, word))
    units: list[Unit] = []
    at = 0
    while at < len(letters):
        stop = _vowels_end(letters, at)
        if stop == at:
            stop, sound, ms = _consonant(letters, at)
            units.append(Unit(start + at, start + stop, sound, ms))
        elif letters[at:] == "e" and any(unit.phone_class is PhoneClass.VOWEL for unit in units):
            units[-1] = _longer(units[-1], _SILENT_E_MS, to=end)
        else:
            ms = _SHORT_VOWEL_MS if stop == at + 1 else _LONG_VOWEL_MS
            units.append(Unit(start + at, start + stop, PhoneClass.VOWEL, ms))
        at = stop
    return units


def _vowels_end(letters: str, at: int) -> int:
    """Return where the vowels that begin at `at` end; a word-initial `y` is a consonant."""
    if letters[at] == "y" and at == 0 and len(letters) > 1:
        return at
    stop = at
    while stop < len(letters) and letters[stop] in _VOWELS:
        stop += 1
    return stop


def _base_letter(char: str) -> str:
    """Return the lower-case base letter of `char`, without diacritics."""
    return unicodedata.normalize("NFD", char.lower())[0]


def _consonant(letters: str, at: int) -> tuple[int, PhoneClass, float]:
    """Return where the consonant at `at` ends, its sound and its duration."""
    pair, letter = letters[at : at + 2], letters[at]
    if pair in _PAIRS:
        return at + 2, _PAIRS[pair], _CONSONANT_MS[_PAIRS[pair]]
    if letter not in _SINGLES:
        return at + 1, PhoneClass.VOWEL, _OTHER_SCRIPT_MS
    soft = letter == "c" and letters[at + 1 : at + 2] in _SOFT_C
    sound = PhoneClass.SIBILANT if soft else _SINGLES[letter]
    return at + (2 if pair == letter * 2 else 1), sound, _CONSONANT_MS[sound]


def _longer(unit: Unit, by_ms: float, *, to: float | None = None) -> Unit:
    end = unit.end if to is None else to
    return Unit(unit.start, end, unit.phone_class, unit.duration_ms + by_ms, unit.skip_probability)


def _lengthened(units: list[Unit]) -> list[Unit]:
    """Lengthen the sounds before pauses and at word ends (phrase-final lengthening)."""
    stretched = list(units)
    pauses = [*map(_is_long_pause, units), True, True]
    for i, unit in enumerate(units):
        if unit.phone_class is PhoneClass.PAUSE:
            continue
        if pauses[i + 1] or pauses[i + 2]:
            if unit.phone_class is not PhoneClass.STOP:
                stretched[i] = _longer(unit, _PHRASE_END_MS)
        elif units[i + 1].phone_class is PhoneClass.PAUSE:
            stretched[i] = _longer(unit, _WORD_END_MS)
    return stretched


def _is_long_pause(unit: Unit) -> bool:
    return unit.phone_class is PhoneClass.PAUSE and unit.duration_ms >= _PAUSE_MS
