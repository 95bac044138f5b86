"""Remove Markdown marks and HTML tags from a sentence.

The module gets one sentence at a time, so nothing that spans sentences. It must not know how words
are spoken.
"""

# ruff: noqa: RUF001 -- marks that look like ASCII ones are what these patterns are about

import html
import re
from collections.abc import Iterator

from csm_trio.text.normalization.lexicon import words
from csm_trio.text.spans import Replacement, TracedText

_BLOCK_TAGS = frozenset(
    words("""
    br p div li ul ol hr h1 h2 h3 h4 h5 h6 table tr td th blockquote section pre break s
""")
)
# No "<" within: linear in a flood of them.
_AUTOLINK = re.compile(
    r"<((?:https?://|mailto:|www\.)[^<>\s]{1,500}+|[^<>\s@]{1,64}+@[^<>\s@]{1,255}+)>"
)
_TAG = re.compile(r"</?([A-Za-z][\w-]{0,30}+)(?:[\s/][^<>]{0,500}+)?>|<![^<>]{0,500}+>")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]\w{1,30}+);")
_EMOTICON = re.compile(
    r"(?<!\S)(?:[:;]'?-?[()DPp/|]|=-?[()]|<3|\^_\^)(?=[\s.,!?]|$)",
)

_FENCE = re.compile(r"^ ?(?:`{3,}|~{3,}) ?[\w+#-]{0,20}+$", re.MULTILINE)
_WORDLESS_LINE = re.compile(r"^(?:[^\w\n]|_)+$", re.MULTILINE)  # rules, table rules
_LINE_MARK = re.compile(r"^ ?(?:(?:[-*+] \[[ xX]\]|[-*+–>]|#{1,6}) )++", re.MULTILINE)
_TRAILING_HASHES = re.compile(r"(?<= )#+ ?$", re.MULTILINE)
_TABLE_ROW = re.compile(r"^ ?\|[^\n]*+", re.MULTILINE)
_CELL_EDGES = re.compile(r" ?\|[ |]*+")
_PIPE = re.compile(r"\|")
_DEFINITION = re.compile(
    r"^ ?\[(?:\^[^\[\]\n]{1,100}+\]: ?|[^\[\]\n]{1,100}+\]: ?(?=https?://))", re.MULTILINE
)
_FOOTNOTE = re.compile(r"\[\^[^\[\]\s]{1,50}+\]")
_LINK = re.compile(r"!?\[([^\[\]]*+)\](?:\((?:[^()\[\]]|\([^()]*+\))*+\)|\[[^\[\]]{0,100}+\])")
_STARS = re.compile(  # not those of 2*3, 2 * 3 and 2**3
    r"(?<![\d*])\*{2,}+|(?<!\*)\*{2,}+(?!\d)|(?<![^\W_])(?<!\*)\*(?=\S)|(?<=\S)\*(?![^\W_]|\*)"
)
_UNDERSCORES = re.compile(r"(?<!\w)_++|(?<!_)_++(?!\w)")
_TICKS = re.compile(r"`+|~~+")
_ESCAPE = re.compile(r"\\(?=[!-/:-@\[-`{-~])")
_RANGE_DASH = re.compile(r"(?<=\w)–(?=\w)")
_DASH = re.compile("–")


def decode_entities(traced: TracedText) -> None:
    """Decode HTML entities; the result may itself be markup."""
    if "&" in traced.text:
        traced.sub(_ENTITY, _decoded)


def drop_markup(traced: TracedText) -> None:
    """Remove HTML tags and Markdown marks; runs of spaces must be single spaces already."""
    if "<" in traced.text:
        traced.sub(_AUTOLINK, _inner)
        traced.sub(_TAG, _untagged)
    traced.sub(_EMOTICON, "")
    traced.sub(_FENCE, "")
    traced.sub(_WORDLESS_LINE, "")
    traced.sub(_LINE_MARK, "")
    traced.sub(_TRAILING_HASHES, "")
    traced.sub(_TABLE_ROW, _cells)
    traced.sub(_PIPE, " ")
    if "[" in traced.text:
        traced.sub(_FOOTNOTE, "")
        traced.sub(_DEFINITION, "")
        traced.sub(_LINK, _inner)
    traced.sub(_ESCAPE, "")
    traced.sub(_TICKS, "")
    traced.sub(_STARS, "")
    traced.sub(_UNDERSCORES, "")
    traced.sub(_RANGE_DASH, "-")
    traced.sub(_DASH, " - ")


def _untagged(match: re.Match[str]) -> str:
    return "\n" if (match[1] or "").lower() in _BLOCK_TAGS else ""


def _decoded(match: re.Match[str]) -> str | None:
    char = html.unescape(match[0])
    if char == match[0]:
        return None
    return " ".join(char.split()) or " "


def _cells(match: re.Match[str]) -> Iterator[Replacement]:
    done = match.start()
    for edge in _CELL_EDGES.finditer(match.string, *match.span()):
        yield match.string[done : edge.start()], done, edge.start()
        outer = edge.start() == match.start() or edge.end() == match.end()
        yield "" if outer else ", ", edge.start(), edge.end()
        done = edge.end()
    yield match.string[done : match.end()], done, match.end()


def _inner(match: re.Match[str]) -> list[Replacement]:
    start, end = match.span(1)
    return [("", match.start(), start), (match[1], start, end), ("", end, match.end())]
