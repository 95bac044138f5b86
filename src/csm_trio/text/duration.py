"""Durations of speech of a text; the module must not know voices, models or frames."""

from collections.abc import Collection

from csm_trio.text.cutting import between_phrases

_REST_MS = 1500  # silence around the words, and words of one sound
_LETTER_MS = 150
_CAPITAL_MS = 350  # it may be spelled out: "USB"
_IDEOGRAPH_MS = 500  # at least one syllable per character
_DIGIT_MS = 800  # "777,777" is spoken as 62 letters, 10 per digit
_SYMBOL_MS = 600  # "$" is "dollars"
_PAUSE_MS = 400
_SILENT_MS = 50

_FASTEST_MS = 33  # per character of an alphabet, spaces included: 30 a second
_FASTEST_IDEOGRAPH_MS = 80

_SLOW_SHARE = 0.75
"""Fraction of `longest_speech_s` that a voice 1.5 times as slow as an ordinary one needs."""
_CLAUSE_ENDS = frozenset(",;:.!?)")
_SYMBOLS = frozenset("$%&@#+=/\\*^<>|~_°§")
_SILENT = frozenset("\"'()[]{}-`")


def longest_speech_s(text: str) -> float:
    """Return the seconds after which speech of `text` has certainly run away.

    About twice what an ordinary voice (15 characters a second) needs, plus 1.5 s, so that
    slow voices and short texts fit: a cap for a model whose end of speech is not reliable
    (SesameAILabs/csm#122). Text appended never lowers it. Linear in the length of `text`.
    """
    return (_REST_MS + sum(map(_max_ms, text))) / 1000


def ordinary_speech_s(text: str) -> float:
    """Return the seconds that an ordinary voice needs for a spoken text, no rest around it."""
    return sum(map(_max_ms, text)) / 2000


def plausible_speech_s(text: str) -> tuple[float, float]:
    """Return the seconds that the fastest and the slowest speech of a spoken text takes.

    An alphabet's characters, spaces included, are spoken at about 30 to 4 a second; ideographs
    and syllables at 12 to 1. Pauses of half a second belong to it, longer ones do not.
    """
    fastest_ms = sum(
        _FASTEST_IDEOGRAPH_MS if char.isalpha() and char >= "\u2e80" else _FASTEST_MS
        for char in text
    )
    return fastest_ms / 1000, 4 * ordinary_speech_s(text)


def split_points(text: str, limit_s: float, word_spaces: Collection[int]) -> list[tuple[int, int]]:
    """Return the [start, end) of parts that each last at most `limit_s` in a slow voice.

    A slow voice takes 1.5 times as long as an ordinary one. Parts end at the last clause within
    their second half, else between the last phrases there, else at the last of `word_spaces`, else
    at the last space, else anywhere; that space belongs to no part. Linear in the length of `text`.
    """
    limit_ms = limit_s * 1000 / _SLOW_SHARE
    parts: list[tuple[int, int]] = []
    start, at, spent_ms = 0, 0, 0
    half_way = clause_at = phrase_at = word_at = space_at = 0
    while at < len(text):
        spent_ms += _max_ms(text[at])
        if spent_ms > limit_ms and at > start:
            late = [place for place in (clause_at, phrase_at) if place > half_way]
            end = late[0] if late else word_at or space_at or at
            parts.append((start, end))
            start = at = end + (text[end] == " ")
            spent_ms = half_way = clause_at = phrase_at = word_at = space_at = 0
            continue
        if spent_ms <= limit_ms / 2:
            half_way = at
        if text[at] == " " and at > start:
            space_at = at
            if at in word_spaces:
                word_at = at
                clause_at = at if text[at - 1] in _CLAUSE_ENDS else clause_at
                phrase_at = at if between_phrases(text, at) else phrase_at
        at += 1
    return [*parts, (start, len(text))]


def _max_ms(char: str) -> int:
    if char.isspace():
        return 0
    if char.isnumeric():
        return _DIGIT_MS
    if char.isalpha():
        if char >= "\u2e80":
            return _IDEOGRAPH_MS
        return _CAPITAL_MS if char.isupper() else _LETTER_MS
    if char in _SYMBOLS or not char.isascii():
        return _SYMBOL_MS
    return _SILENT_MS if char in _SILENT else _PAUSE_MS
