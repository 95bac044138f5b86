"""Text normalization: turn a written sentence into the text to be spoken, with a span map.

The module must not know sentence boundaries, tokenizers or voices.
"""

import re
from typing import Literal

from csm_trio.text.audio_tags import AUDIO_TAG
from csm_trio.text.normalization.addresses import ADDRESSES
from csm_trio.text.normalization.amounts import LENGTHS, MEASURES, MONEY
from csm_trio.text.normalization.calendar_names import NAMES
from csm_trio.text.normalization.codes import CODES, HEXADECIMAL
from csm_trio.text.normalization.dates import DATES
from csm_trio.text.normalization.figures import (
    EXPRESSIONS,
    FIGURES,
    LAST_FIGURES,
    POWERS,
    SIZES,
    SUBSCRIPTS,
)
from csm_trio.text.normalization.fractions import FRACTIONS, IDIOMS, PARTS
from csm_trio.text.normalization.grouping import GROUPING
from csm_trio.text.normalization.keypad import KEYS
from csm_trio.text.normalization.markdown import decode_entities, drop_markup
from csm_trio.text.normalization.numbered_names import IDS, PLURALS, POWERS_OF_TEN
from csm_trio.text.normalization.phones import PHONES
from csm_trio.text.normalization.rules import apply
from csm_trio.text.normalization.signs import COMPARISONS, SIGNS
from csm_trio.text.normalization.streets import STREETS_AND_TITLES
from csm_trio.text.normalization.times import AT_TIMES, TIMES
from csm_trio.text.normalization.unicode_cleanup import compose, make_plain
from csm_trio.text.normalization.words import ABBREVIATED, BARE_UNITS, ROMANS
from csm_trio.text.normalization.years import DECADES, YEARS
from csm_trio.text.spans import SpokenText, TracedText

Normalization = Literal["auto", "on", "off"]

# Whole expressions come before the rules that would take their digits.
_WITH_DIGITS = (
    *SUBSCRIPTS,
    *IDIOMS,
    *PHONES,
    *CODES,
    *DATES,
    *TIMES,
    *GROUPING,
    *POWERS_OF_TEN,
    *DECADES,
    *PLURALS,
    *EXPRESSIONS,
    *PARTS,
    *SIZES,
    *LENGTHS,
    *MONEY,
    *MEASURES,
    *YEARS,
    *POWERS,
    *FRACTIONS,
    *FIGURES,
    *IDS,
    *LAST_FIGURES,
)

_BLANKS = re.compile(r"\s+")
_EDGES = re.compile(r"^ +| +$")
_LOOSE_STOP = re.compile(r"(?<!\\) (?=[.,;:!?](?: |$))")  # left where an emoji was removed
_EDGE_DASHES = re.compile(r"^(?:- )++|(?<= )-$")


def normalize(
    sentence: str, mode: Normalization = "auto", *, audio_tags: bool = False
) -> SpokenText:
    """Return the spoken form of a sentence, with the written characters that each part stands for.

    In every mode, quotes, dashes, ellipses and spaces become plain ASCII. Control and zero-width
    characters, lone surrogates, emoji, decoration, Markdown marks and HTML tags are removed; a link
    leaves its text. Whitespace collapses and is stripped. The result is in NFC, with ligatures and
    the full-width and mathematical alphabets in plain letters; letters keep their diacritics. The
    text is "" if it has no letter and no digit.

    Unless `mode` is "off", figures, signs and abbreviations become American English words and no
    digit is left; "auto" and "on" are the same. With `audio_tags`, text in square brackets is a
    direction ("[laughs]") and not spoken. Words stay as they are, also in capitals: no
    transliteration, no correction of case or spelling.

    Raises nothing for any text. Linear in its length.
    """
    traced = TracedText(sentence)
    if audio_tags:
        traced.sub(AUDIO_TAG, " ")
    decode_entities(traced)
    make_plain(traced)
    if mode != "off":
        apply(KEYS, traced)
    drop_markup(traced)
    _tidy(traced)
    if not any(char.isalnum() for char in traced.text):
        traced.sub(_ALL, "")
        return traced.finish()
    if mode != "off":
        _normalize_to_words(traced)
        _tidy(traced)
    return traced.finish()


_ALL = re.compile(r"(?s)^.+$")


def _normalize_to_words(traced: TracedText) -> None:
    if any(mark in traced.text for mark in ".@#/:"):
        apply(AT_TIMES, traced)
        apply(ADDRESSES, traced)
    apply(NAMES, traced)
    apply(STREETS_AND_TITLES, traced)
    apply(ABBREVIATED, traced)
    apply(HEXADECIMAL, traced)
    apply(COMPARISONS, traced)
    if any(char.isnumeric() for char in traced.text):
        apply(_WITH_DIGITS, traced)
    apply(ROMANS, traced)
    apply(SIGNS, traced)
    apply(BARE_UNITS, traced)


def _tidy(traced: TracedText) -> None:
    traced.sub(_BLANKS, " ")
    traced.sub(_LOOSE_STOP, "")
    traced.sub(_EDGES, "")
    traced.sub(_EDGE_DASHES, "")
    traced.sub(_EDGES, "")
    compose(traced)
