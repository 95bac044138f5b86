"""A text in, an upper bound of its speaking time out; no voice, no model, no frames."""

_REST_MS = 1500  # silence around the words, and words of one sound
_LETTER_MS = 150
_CAPITAL_MS = 350  # it may be spelled out: "USB"
_IDEOGRAPH_MS = 500  # a syllable or more in one character
_DIGIT_MS = 800  # "777,777" is 62 letters aloud: 10 a digit
_SYMBOL_MS = 600  # "$" is "dollars"
_PAUSE_MS = 400
_SILENT_MS = 50

_SYMBOLS = frozenset("$%&@#+=/\\*^<>|~_°§")
_SILENT = frozenset("\"'()[]{}-`")


def longest_speech_s(text: str) -> float:
    """Return the seconds after which speech of `text` has certainly run away.

    About twice what an ordinary voice (15 characters a second) needs, and 1.5 s on top, so that
    slow voices and short texts fit: a cap for a model whose end of speech is not reliable
    (SesameAILabs/csm#122). Text appended never lowers it. Linear in the length of `text`.
    """
    return (_REST_MS + sum(map(_longest_ms, text))) / 1000


def _longest_ms(char: str) -> int:
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
