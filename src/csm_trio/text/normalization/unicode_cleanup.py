"""Reduce Unicode to plain punctuation and letters, without control characters and emoji.

The module must not know Markdown, or how anything is spoken.
"""

# ruff: noqa: RUF001 -- marks that look like ASCII ones are what these tables are about

import re
import unicodedata
from collections.abc import Iterator

from csm_trio.text.spans import Replacement, TracedText

_MAX_MARKS = 4  # combining marks kept on one character: no script stacks more, and NFC sorts them
_DROPPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Me"})
_BLANKED_CATEGORIES = frozenset({"Zs", "Zl", "Zp", "Co", "Cn", "So"})
_KEPT_SYMBOLS = frozenset("°")

_PLAIN = {
    **dict.fromkeys("“”„‟«»″❝❞", '"'),
    **dict.fromkeys("‘’‚‛‹›′", "'"),
    **dict.fromkeys("‐‑‒−﹣", "-"),
    **dict.fromkeys("—―⸺⸻", " - "),
    **dict.fromkeys("•‣¶\t", " "),
    **dict.fromkeys("\r\v\f\x85\u2028\u2029", "\n"),
    "…": "...",
    "\n": "\n",
    "⁄": "/",
    "№": "No. ",
    "㎡": "m²",
    "㎥": "m³",
    "㎢": "km²",
    "㎠": "cm²",
    "″": '"',
    "ʺ": '"',
    **dict.fromkeys("\u200b\ufe0e\ufe0f", ""),
}
# Compatibility forms equivalent in speech to their decomposition; not fractions and superscripts.
_COMPATIBLE = re.compile(
    "[\ufb00-\ufb06\uff01-\uff5e\U0001d400-\U0001d7ff\u3371-\u33dfℓ℃℉]",
)
_ARROWS = re.compile("[\u2190-\u21ff\u27f0-\u27ff\u2900-\u297f]")
_SKIN_TONES = re.compile("[\U0001f3fb-\U0001f3ff]")

_ODD = re.compile(r"[^ -~\n]+")
_COMPOSABLE = re.compile(r"[\x00-\x7f]?[^\x00-\x7f]++")
_SPACES = re.compile(r" {2,}")


def make_plain(traced: TracedText) -> None:
    """Convert to NFC and plain punctuation; newlines stay, runs of spaces become one."""
    traced.sub(_ODD, _plain_run)
    compose(traced)
    traced.sub(_SPACES, " ")


def compose(traced: TracedText) -> None:
    """Convert to NFC."""
    if not unicodedata.is_normalized("NFC", traced.text):
        traced.sub(_COMPOSABLE, _composed)


def _plain_run(match: re.Match[str]) -> Iterator[Replacement]:
    marks = 0
    for at, char in enumerate(match[0], start=match.start()):
        marks = marks + 1 if unicodedata.category(char) == "Mn" else 0
        yield _plain_char(char) if marks <= _MAX_MARKS else "", at, at + 1


def _plain_char(char: str) -> str:
    if char in _PLAIN:
        return _PLAIN[char]
    if _COMPATIBLE.match(char):
        return unicodedata.normalize("NFKC", char)
    if char in _KEPT_SYMBOLS:
        return char
    category = unicodedata.category(char)
    if category in _BLANKED_CATEGORIES or _ARROWS.match(char) or _SKIN_TONES.match(char):
        return " "
    return "" if category in _DROPPED_CATEGORIES else char


def _composed(match: re.Match[str]) -> list[Replacement] | str:
    """Compose each base with its marks, unless only the whole composes (Hangul)."""
    whole = unicodedata.normalize("NFC", match[0])
    starts = [at for at, char in enumerate(match[0]) if at == 0 or not unicodedata.combining(char)]
    parts = [
        (unicodedata.normalize("NFC", match[0][start:end]), match.start() + start, end)
        for start, end in zip(starts, [*starts[1:], len(match[0])], strict=True)
    ]
    parts = [(text, start, match.start() + end) for text, start, end in parts]
    return parts if "".join(text for text, _, _ in parts) == whole else whole
