"""One sentence as it was written in; out, what a voice is to say, and what each bit stands for.

It must not know where sentences end, which tokenizer reads them, or what a voice makes of them.
"""

import re
from typing import Literal

from csm_trio.text.normalization.addresses import ADDRESSES
from csm_trio.text.normalization.amounts import MEASURES, MONEY
from csm_trio.text.normalization.codes import CODES, IDS
from csm_trio.text.normalization.dates import DATES, NAMES, YEARS
from csm_trio.text.normalization.figures import FIGURES, IDIOMS, LAST_FIGURES, POWERS
from csm_trio.text.normalization.markdown import decode_entities, drop_markup
from csm_trio.text.normalization.rules import apply
from csm_trio.text.normalization.times import TIMES
from csm_trio.text.normalization.unicode_cleanup import compose, make_plain
from csm_trio.text.normalization.words import ABBREVIATED, KEYS, ROMANS, SIGNS
from csm_trio.text.spans import SpokenText, TracedText

Normalization = Literal["auto", "on", "off"]

_WITH_DIGITS = (
    *IDIOMS,
    *CODES,
    *DATES,
    *TIMES,
    *MONEY,
    *MEASURES,
    *YEARS,
    *POWERS,
    *FIGURES,
    *IDS,
    *LAST_FIGURES,
)


_BLANKS = re.compile(r"\s+")
_EDGES = re.compile(r"^ +| +$")
_LOOSE_STOP = re.compile(r" (?=[.,;:!?](?: |$))")  # what an emoji leaves behind
_EDGE_DASHES = re.compile(r"^(?:- )++|(?<= )-$")


def normalize(sentence: str, mode: Normalization = "auto") -> str:
    """Return what is to be said of what is written, or "" if nothing speakable remains.

    See `verbalize`.
    """
    return verbalize(sentence, mode).text


def verbalize(sentence: str, mode: Normalization = "auto") -> SpokenText:
    """Return what is to be said of what is written, and what each part of it stands for.

    Speakable is a letter or a digit. Always: quotes, dashes, ellipses and spaces become plain
    ASCII; control and zero-width characters, lone surrogates, emoji and decoration go; so do the
    marks of Markdown and the tags of HTML, and a link leaves its text; whitespace collapses and is
    stripped. The result is in NFC, with ligatures and the full-width and mathematical alphabets
    spelled plainly; letters keep their diacritics.

    Unless `mode` is "off", what is written in figures, signs and abbreviations becomes American
    English words; "auto" and "on" are the same. No digit is left then. Words stay as they are,
    those in capitals too: it does not transliterate other scripts, nor correct case or spelling.

    Never raises, whatever the text. Linear in its length.
    """
    traced = TracedText(sentence)
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
        _say(traced)
        _tidy(traced)
    return traced.finish()


_ALL = re.compile(r"(?s)^.+$")


def _say(traced: TracedText) -> None:
    if any(mark in traced.text for mark in ".@#/"):
        apply(ADDRESSES, traced)
    apply(NAMES, traced)
    apply(ABBREVIATED, traced)
    if any(char.isnumeric() for char in traced.text):
        apply(_WITH_DIGITS, traced)
    apply(ROMANS, traced)
    apply(SIGNS, traced)


def _tidy(traced: TracedText) -> None:
    traced.sub(_BLANKS, " ")
    traced.sub(_LOOSE_STOP, "")
    traced.sub(_EDGES, "")
    traced.sub(_EDGE_DASHES, "")
    traced.sub(_EDGES, "")
    compose(traced)
