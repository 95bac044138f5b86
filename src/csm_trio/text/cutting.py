"""Where a sentence that is too long may be cut: clauses, phrases, never within an expression.

The module must not know who cuts, or how long a part may be spoken.
"""

# ruff: noqa: RUF001 -- marks that look like ASCII ones are what these tables are about

import re
import unicodedata

from csm_trio.text.normalization.lexicon import (
    ABBREVIATIONS,
    ADDRESS_UNITS,
    MONTHS,
    NUMBERED,
    STATES,
    STREETS,
    TITLES,
    WEEKDAYS,
    words,
)
from csm_trio.text.stops import CLOSERS

_LONGEST_GRAPHEME_CHARS = 16
_CLAUSE_MARKS = frozenset(",;:–")  # a boundary where whitespace follows
_WIDE_CLAUSE_MARKS = frozenset("—，、；：")  # a boundary whatever follows

_PHRASE_STARTS = frozenset(
    words("""
    and or but nor so yet because that which who whom whose when while if unless although though
    since after before until where to for with without in on at from by as than about into onto over
    under through during between within against across along around toward towards via per is are
    was were will would can could should may might must has have had
""")
)
_PHRASE_INSIDES = frozenset(
    words("""
    a an the this that these those my your his her its our their of to in on at for from by with and
    or but not no very too so as is are was were be been will would can could should may might must
    has have had do does did every each some any all both such more most less about over under
    between without into than if when mr mrs ms dr i you he she it we they
""")
)

_NAME = r"[A-Z][\w'’-]{0,30}+"
_MONTH = rf"(?:{'|'.join(MONTHS)}|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?)"
_WEEKDAY = rf"(?:{'|'.join(WEEKDAYS)}|(?:Mon|Tues?|Wed|Thu(?:rs?)?|Fri|Sat|Sun)\b\.?)"
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_STREET = rf"(?:{'|'.join(STREETS)}|{'|'.join(STREETS.values())}|Way)"
_UNIT = rf"(?:{'|'.join(ADDRESS_UNITS)}|#|P\.?O\.? Box)"
_LINKS = (
    "and|or|but|so|which|that|because|if|when|while|is|are|was|were|for|with|from|at|on|in|to|by"
)
_STATE = rf"(?:[A-Z]{{2}}\b|[A-Z]\Z|{'|'.join(STATES)}|D\.C\.)"
_TOGETHER = re.compile(
    # Monday, January 5, 2027; 5 January 2027
    rf"(?:\b{_WEEKDAY},? )?\b{_MONTH} {_DAY}\b(?:,? \d{{1,4}}\b)?(?:,? at(?= ?\d))?"
    rf"|\b{_WEEKDAY},? (?:the )?(?=\d)"
    rf"|\b{_DAY}(?: of)? {_MONTH},?(?: \d{{1,4}})?"
    # 12 Oak St., Apt. 4, San Jose, CA 95112
    rf"|\b\d{{1,6}} (?:[NSEW]{{1,2}}\.? )?"
    rf"(?:{_NAME} |\d{{1,3}}(?:st|nd|rd|th) ){{1,4}}{_STREET}\b\.?"
    rf"(?:,? [NSEW]{{1,2}}\b\.?)?(?:,? {_UNIT}\.? ?[\w-]{{1,8}})?"
    rf"(?:, {_NAME}(?: {_NAME}){{0,2}})?(?:,? {_STATE})?(?:,? \d{{1,5}})?"
    rf"|, {_UNIT}\b\.? ?(?=[\w#])"
    # San Jose, CA
    rf"|(?:{_NAME} ){{0,3}}{_NAME}, {_STATE}(?: \d{{1,5}})?"
    # Dr. Anna Smith
    rf"|\b(?:{'|'.join(TITLES)})\.? {_NAME}(?: {_NAME}\.?){{0,3}}"
    rf"|\b{_NAME}\.?(?: {_NAME}\.?){{1,4}}(?:,? (?:Jr|Sr|Inc|Ltd|LLC|Esq|Ph\.D)\b\.?)?"
    # 555-0123, ext. 42
    r"|,? (?:ext\b\.?|extension\b)(?: (?=\d)| ?\Z)"
    # numbers and what they count; $3 million dollars; 5 p.m. EST
    r"|(?<=\d)[%)\"']? (?:hundred|thousand|million|billion|trillion)(?: [a-z]{1,12}s\b)?"
    r"|(?<=\d) [AaPp]\.?[Mm]\b\.?(?: (?:[ECMP][SD]?T|GMT|UTC|Eastern|Central|Pacific)\b)?"
    rf"|[\d%)][\"')]? (?=\S)(?!(?:{_LINKS})\b(?! [$€£]?\d))"
    r"|[,;:]? (?=[$€£₹#(+~<>±-]{0,2}\d)"
    rf"|\b(?:{'|'.join(map(re.escape, {**ABBREVIATIONS, **NUMBERED}))}|vs|e\.g|i\.e)\. "
)


def kept_together(text: str) -> list[tuple[int, int]]:
    """Return the [start, end) of expressions that a cut must not part.

    Dates, addresses, places, names with titles, numbers with what they count, telephones.
    Ascending; an expression that has only begun at the end of `text` counts.
    """
    return [match.span() for match in _TOGETHER.finditer(text)]


def clause_before(text: str, limit: int) -> int:
    """Return the end of the last clause of `text[:limit]` outside an expression, or 0."""
    clauses = [at for at in _clause_ends(text, kept_spaces(text)) if at <= limit]
    return clauses[-1] if clauses else 0


def kept_spaces(text: str) -> set[int]:
    """Return the positions of whitespace within the expressions of `text`."""
    together = kept_together(text)
    kept = {at for start, end in together for at in range(start, end) if text[at].isspace()}
    last = max((at for at, char in enumerate(text) if char.isspace()), default=0)
    if last and _is_open(text, last, {end for _, end in together}):
        kept.add(last)
    return kept


def cut_point(text: str, max_chars: int) -> int:
    """Return where to cut a text of more than `max_chars` characters.

    After the last clause, else between the last phrases, else between the last words that no
    expression holds together, else at the last whitespace, else anywhere.
    """
    kept = kept_spaces(text)
    clauses = [at for at in _clause_ends(text, kept) if at <= max_chars]
    if clauses and clauses[-1] >= max_chars // 4:
        return clauses[-1]
    spaces = [at for at, char in enumerate(text[: max_chars + 1]) if at and char.isspace()]
    free = [at for at in spaces if at not in kept]
    phrases = [at for at in free if between_phrases(text, at)]
    complete = [at for at in free if _word_before(text, at) not in _PHRASE_INSIDES]
    half = max_chars // 2
    for places, least in ((phrases, half), (complete, half), (free, half), (phrases, 0), (free, 0)):
        if places and places[-1] > least:
            return places[-1]
    return spaces[-1] if spaces else _hard_cut(text, max_chars)


def _clause_ends(text: str, kept: set[int]) -> list[int]:
    ends = []
    for at, char in enumerate(text):
        if char in _WIDE_CLAUSE_MARKS:
            ends.append(at + 1)
        elif char.isspace() and at > 1 and at not in kept:
            before = at - 2 if text[at - 1] in CLOSERS else at - 1
            dash = text[before] == "-" and before > 0 and text[before - 1].isspace()
            if text[before] in _CLAUSE_MARKS or dash:
                ends.append(at)
    return ends


def _word_before(text: str, at: int) -> str:
    return text[max(0, at - 12) : at].rpartition(" ")[2].lower()


def between_phrases(text: str, at: int) -> bool:
    """Return whether a phrase begins after the space at `at`, and none is begun before it."""
    following, _, _ = text[at + 1 : at + 13].partition(" ")
    return following in _PHRASE_STARTS and _word_before(text, at) not in _PHRASE_INSIDES


def _is_open(text: str, at: int, ends: set[int]) -> bool:
    """Return whether the unfinished word after the last space may belong to an expression."""
    begun, before = text[at + 1 :], text[:at].rstrip(",;:")
    if begun and before[-1:].isdigit() and begun in ("e", "ex", "ext", "ext."):
        return True
    if begun and not (begun[0].isupper() or begun[0].isdigit() or begun[0] in "($€£₹#"):
        return False
    word = before[max(0, len(before) - 12) :].rpartition(" ")[2]
    return at in ends or at + 1 in ends or not word.islower() or not word.isalpha()


def _hard_cut(text: str, max_chars: int) -> int:
    """Return the last index up to `max_chars` that splits no combining sequence."""
    for at in range(max_chars, max_chars - _LONGEST_GRAPHEME_CHARS, -1):
        if not _inseparable(text[at - 1], text[at]):
            return at
    return max_chars


def _inseparable(left: str, right: str) -> bool:
    surrogates = "\ud800" <= left <= "\udbff" and "\udc00" <= right <= "\udfff"
    return surrogates or "\u200d" in (left, right) or unicodedata.category(right)[0] == "M"
