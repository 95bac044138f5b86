"""One sentence as it was written in, the text a tokenizer is given out.

It must not know where sentences end, which tokenizer reads them, or what a voice makes of them.
"""

# ruff: noqa: RUF001 -- marks that look like ASCII ones are what these tables are about

import re
import unicodedata

_MOST_MARKS = 4  # combining marks kept on one character: no script stacks more, and NFC sorts them
_DROPPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Me"})
_BLANKED_CATEGORIES = frozenset({"Zs", "Zl", "Zp", "Co", "Cn", "So"})
_KEPT_SYMBOLS = frozenset("°")

_PLAIN = str.maketrans(
    {
        **dict.fromkeys("“”„‟«»″❝❞", '"'),
        **dict.fromkeys("‘’‚‛‹›′", "'"),
        **dict.fromkeys("‐‑‒−﹣", "-"),
        **dict.fromkeys("—―⸺⸻", " - "),
        **dict.fromkeys("•‣|¶\t", " "),
        **dict.fromkeys("\r\v\f\x85\u2028\u2029", "\n"),
        "…": "...",
        "\u200b": "",
        "\ufe0e": "",
        "\ufe0f": "",
    }
)
# Compatibility forms that read exactly as what they decompose to; not fractions and superscripts.
_COMPATIBLE = re.compile("[\ufb00-\ufb06\uff01-\uff5e\U0001d400-\U0001d7ff№℃℉]+")
_ARROWS = re.compile("[\u2190-\u21ff\u27f0-\u27ff\u2900-\u297f]")

_SPACES = re.compile(r" {2,}")
_RULE = re.compile(r"^ ?(?:[-*_=] ?){3,}$", re.MULTILINE)
_LINE_MARK = re.compile(r"^ ?(?:(?:[-*+–>]|#{1,6}) )++", re.MULTILINE)
_LINK = re.compile(r"!?\[([^\[\]]*+)\]\((?:[^()\[\]]|\([^()]*+\))*+\)")
_STARS = re.compile(  # not those of 2*3, 2 * 3 and 2**3
    r"(?<![\d*])\*{2,}+|(?<!\*)\*{2,}+(?!\d)|(?<![^\W_])(?<!\*)\*(?=\S)|(?<=\S)\*(?![^\W_]|\*)"
)
_UNDERSCORES = re.compile(r"(?<!\w)_++|(?<!_)_++(?!\w)")
_TICKS = re.compile(r"`+|~~+")
_RANGE_DASH = re.compile(r"(?<=\w)–(?=\w)")
_LOOSE_STOP = re.compile(r" (?=[.,;:!?](?: |$))")  # what an emoji leaves behind
_EDGE_DASHES = re.compile(r"^(?:- )++|(?<= )-$")


def normalize(sentence: str) -> str:
    """Return what is to be said of what is written, or "" if nothing speakable remains.

    Speakable is a letter or a digit. Quotes, dashes, ellipses and spaces become plain ASCII;
    control and zero-width characters, lone surrogates, emoji and decoration go; Markdown's
    emphasis, code, heading, list, quote and rule marks go, and a link leaves its text; whitespace
    collapses and is stripped. The result is in NFC, with ligatures and the full-width and
    mathematical alphabets spelled plainly; letters keep their diacritics.

    It does not spell out numbers, money, dates, times, units, abbreviations, e-mail addresses or
    URLs, does not read Markdown tables, HTML or SSML, does not transliterate other scripts and
    does not correct case or spelling. Linear in the length of `sentence`.
    """
    text = _SPACES.sub(" ", _without_marks(_plain(sentence)))
    text = _LOOSE_STOP.sub("", " ".join(text.split()))
    text = _EDGE_DASHES.sub("", text).strip()
    return text if any(char.isalnum() for char in text) else ""


def _plain(text: str) -> str:
    """Put `text` in NFC and plain punctuation; its newlines stay."""
    text = _COMPATIBLE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    text = _ARROWS.sub(" ", text.translate(_PLAIN))
    if text.isascii() and text.isprintable():
        return _SPACES.sub(" ", text)
    kept: list[str] = []
    marks = 0
    for char in text:
        category = unicodedata.category(char)
        marks = marks + 1 if category == "Mn" else 0
        if char == "\n" or char in _KEPT_SYMBOLS:
            kept.append(char)
        elif category in _BLANKED_CATEGORIES or _is_skin_tone(char):
            kept.append(" ")
        elif category not in _DROPPED_CATEGORIES and marks <= _MOST_MARKS:
            kept.append(char)
    return _SPACES.sub(" ", unicodedata.normalize("NFC", "".join(kept)))


def _is_skin_tone(char: str) -> bool:
    return "\U0001f3fb" <= char <= "\U0001f3ff"


def _without_marks(text: str) -> str:
    """Take Markdown's marks out of lines whose spaces are single."""
    text = _RULE.sub("", text)
    text = _LINE_MARK.sub("", text)
    text = _LINK.sub(r"\1", text)
    text = _TICKS.sub("", text)
    text = _STARS.sub("", text)
    text = _UNDERSCORES.sub("", text)
    return _RANGE_DASH.sub("-", text).replace("–", " - ")
