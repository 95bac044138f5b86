"""Abbreviations and Roman numerals."""

import re
from collections.abc import Mapping

from csm_trio.text.normalization.lexicon import (
    ABBREVIATIONS,
    AFTER_NUMBERS,
    JOINING,
    LETTERED,
    NUMBERED,
    PER,
)
from csm_trio.text.normalization.numbers import cardinal, ordinal, roman
from csm_trio.text.normalization.rules import Rule, ends_sentence, spaced, within
from csm_trio.text.spans import Replacement


def _any(names: Mapping[str, str]) -> str:
    return "|".join(sorted(names, key=len, reverse=True))


_LATIN = re.compile(
    r"(?<![\w.])(?:(e\.g\.|E\.g\.|eg\.)|(i\.e\.|I\.e\.|ie\.)|(a\.k\.a\.|aka)|(w/o)|(w/))"
    r"(?=[\s,(]|$)"
)
_LATIN_WORDS = ("for example", "that is", "also known as", "without", "with")
_NUMBERED = re.compile(
    rf"(?<![\w.])(?<!\d )({_any(NUMBERED)})\. ?(?=#? ?\d)"
    rf"|(?<![\w.])(?<!\d )({'|'.join(sorted(LETTERED))})\. ?(?=[A-HJ-Z](?![\w.]))"
)
# "The answer is no. 20 people have asked": the word, not a number.
_SAYS_NO = re.compile(r"\b(?:say|says|said|answered|replied|[Aa]nswer:) \Z")
_NO_WORD = re.compile(
    r"\b[Nn]o\.(?= \d{1,9} (?!(?:is|was|has|does|plays|comes|goes|stops|runs|leaves|wins)\b)"
    r"(?:[a-z]{2,20}s|people|men|women|children)\b)"
)
_LIMIT = re.compile(r"(?<![\w.])(?<!\d )(?:([Mm])in|([Mm])ax)\. ?(?=[a-z$])")
_LEAST = re.compile(r"([$€£]\d[\d,.]{0,12}) (?:(m)in|(m)ax)\b\.?(?! ?of\b)")
_PER_TIME = re.compile(
    r"(?<=[a-z]s)/(day|week|month|year|hour|minute|night|person|user|mo|yr|hr|wk)\b"
)
_EXPIRATION = re.compile(r"(?<![\w.])([Ee])xp\.? (?=date\b)")
_NUMBER_OF = re.compile(r"(?<![\w.])([Nn])os?\. (?=of\b)")
_CONTRACTED = {
    "Int'l": "International",
    "Nat'l": "National",
    "Gov't": "Government",
    "Dep't": "Department",
    "Ass'n": "Association",
    "int'l": "international",
    "gov't": "government",
}
_CONTRACTION = re.compile(rf"(?<!\w)({'|'.join(_CONTRACTED)})(?!\w)")
_ESTABLISHED = re.compile(r"(?<![\w.])([Ee])st\. ?(?=(?:1\d|20)\d\d(?!\d))")
_FLOOR = re.compile(r"(?<=\d(?:st|nd|rd|th) )Fl\b(\.?)")
_LABELS = "Qty|Amt|Acct|Ref|Tel|Attn|Appt|Avg|Est|Temp|Dept|Mtg|Ext|Pkg|Mgr"
_LABEL = re.compile(rf"(?<![\w.])({_LABELS})(?=: ?\S)")
_SLASHED_WORDS = {
    "n/a": "N A",
    "N/A": "N A",
    "y/o": "year old",
    "b/c": "because",
    "c/o": "care of",
    "a/c": "A C",
    "A/C": "A C",
    "TBD/TBA": "TBD or TBA",
}
_SLASHED = re.compile(rf"(?<![\w/])(?:{'|'.join(_SLASHED_WORDS)})(?![\w/])")
_VERSUS = re.compile(r"(?<=\w )(?:vs\.?|v\.)(?= \w)")
_ABBREVIATION = re.compile(
    rf"(?<![\w.])(?:(?<!\d )|(?!"
    rf"(?:{'|'.join(sorted(AFTER_NUMBERS))})\b))({_any(ABBREVIATIONS)})\.(?!\w)"
)

_COUNTED = (
    "Chapter|Part|Act|Scene|Book|Volume|Section|Phase|Type|Stage|Level|Class|Figure|Appendix|Title|"
    "Article|Episode|Season|War|Bowl|Grade|Tier|Mark|Rocky|Fantasy|Schedule|Table|Group|Round|Game|"
    "Vatican|Apollo|chapter|part|act|scene|book|volume|section|phase|type|stage|level|class|"
    "appendix|article|episode|grade|tier"
)
_ROMAN_COUNT = re.compile(rf"\b(?:{_COUNTED}) ([IVXLCM]{{1,9}})(?!\.\w|\w)")
_COUNTED_LIST = re.compile(
    r"\b(?:Wars|Parts|Chapters|Acts|Scenes|Books|Volumes|Phases|Types|Sections|Classes|Levels|Titles|"
    r"Articles|Stages|Grades|Tiers) ([IVXLC]{1,7}(?:(?:, and |, | and | or | to |"
    r"-)[IVXLC]{1,7}){1,6})"
    r"(?![\w'])"
)
_ROMAN = re.compile(r"[IVXLC]{1,7}|-")
_NAMES = (
    "Henry|Louis|Charles|George|Edward|Elizabeth|James|William|Richard|John|Mary|Philip|Frederick|"
    "Nicholas|Alexander|Catherine|Napoleon|Pius|Paul|Benedict|Leo|Gregory|Clement|Innocent|Urban|"
    "Francis|Victor|Otto|Ivan|Peter|Ferdinand|Alfonso|Boniface|Julius|Sixtus|Ramses|Ptolemy|Umberto"
    "|Christian|Gustav|Carl|Harald|Haakon|Olav|Albert|Leopold|Wilhelm|Friedrich|Joseph|Maximilian"
)
_ROMAN_NAME = re.compile(
    rf"\b((?:King|Queen|Pope|Emperor|Tsar|Czar|Saint|Empress)? ?)\b(?:{_NAMES})(?: Paul)?"
    r" ([IVX]{1,6})(?!\w|\.\w)(?:(?='s\b|s'|')|(?!'))"
)
_VERBS = re.compile(
    r" (?:am|have|had|will|would|can|could|think|like|love|want|need|know|mentioned|said|told|sent|"
    r"was|saw|got|did|do|don|didn|won|can|should|might|may|must|hope|mean|guess|believe|remember)\b"
)

_BARE_UNITS = re.compile(r"(?<=\w )(hrs|mins|lbs|yrs|secs)(?![\w.])")
_BARE_UNIT_NAMES = {
    **{"hrs": "hours", "mins": "minutes", "lbs": "pounds", "yrs": "years", "secs": "seconds"},
}


def _stop(match: re.Match[str]) -> str:
    return "." if ends_sentence(match.string, match.end()) else ""


def _latin(match: re.Match[str]) -> str:
    at = next(at for at, group in enumerate(match.groups()) if group)
    words = _LATIN_WORDS[at]
    if match[0][0].isupper():
        words = words.capitalize()
    return spaced(match, words)


def _numbered(match: re.Match[str]) -> str | None:
    written = match[1] or match[2]
    starts = written != "No" or match.start() == 0
    if (starts and _NO_WORD.match(match.string, match.start())) or _SAYS_NO.search(
        match.string, max(0, match.start() - 12), match.start()
    ):
        return None
    words = NUMBERED[written]
    return f"{words.capitalize() if written[0].isupper() else words} "


def _abbreviation(match: re.Match[str]) -> str:
    """Expand an abbreviation; its stop stays at the end, and before a capital after a noun."""
    written = match[1]
    ends = written.islower() and written not in JOINING and match.string[match.end() :][:1] == " "
    ends = ends and match.string[match.end() + 1 :][:1].isupper()
    return f"{ABBREVIATIONS[written]}{'.' if ends else _stop(match)}"


def _roman_count(match: re.Match[str]) -> list[Replacement] | None:
    value = roman(match[1])
    if value is None or value > 100 or _is_pronoun(match, 1):
        return None
    return within(match, 1, cardinal(value))


def _roman_list(match: re.Match[str]) -> list[Replacement] | None:
    """Read "World Wars I and II"."""
    start, end = match.span(1)
    parts: list[Replacement] = [(match.string[match.start() : start], match.start(), start)]
    done = start
    for each in _ROMAN.finditer(match.string, start, end):
        value = roman(each[0])
        if value is None and each[0] != "-":
            return None
        parts.append((match.string[done : each.start()], done, each.start()))
        parts.append((" to " if value is None else cardinal(value), *each.span()))
        done = each.end()
    return [*parts, (match.string[done : match.end()], done, match.end())]


def _roman_name(match: re.Match[str]) -> list[Replacement] | None:
    value = roman(match[2])
    if value is None or (match[2] == "I" and (not match[1] or _is_pronoun(match, 2))):
        return None
    return within(match, 2, f"the {ordinal(value).title()}")


def _is_pronoun(match: re.Match[str], group: int) -> bool:
    return match[group] == "I" and _VERBS.match(match.string, match.end()) is not None


ABBREVIATED = (
    Rule(_LATIN, _latin),
    Rule(_NUMBERED, _numbered),
    Rule(_ESTABLISHED, lambda match: f"{match[1]}stablished "),
    Rule(_LIMIT, lambda match: f"{match[1]}inimum " if match[1] else f"{match[2]}aximum "),
    Rule(_LEAST, lambda match: f"{match[1]} {'minimum' if match[2] else 'maximum'}"),
    Rule(_PER_TIME, lambda match: f" per {PER[match[1]]}"),
    Rule(_EXPIRATION, lambda match: f"{match[1]}xpiration "),
    Rule(_NUMBER_OF, lambda match: f"{match[1]}umber "),
    Rule(_CONTRACTION, lambda match: _CONTRACTED[match[1]]),
    Rule(_VERSUS, "versus"),
    Rule(_ABBREVIATION, _abbreviation),
    Rule(_FLOOR, lambda match: f"Floor{_stop(match) if match[1] else ''}"),
    Rule(_LABEL, lambda match: ABBREVIATIONS.get(match[1]) or NUMBERED[match[1]]),
    Rule(_SLASHED, lambda match: _SLASHED_WORDS[match[0]]),
)
ROMANS = (
    Rule(_COUNTED_LIST, _roman_list),
    Rule(_ROMAN_COUNT, _roman_count),
    Rule(_ROMAN_NAME, _roman_name),
)
BARE_UNITS = (Rule(_BARE_UNITS, lambda match: _BARE_UNIT_NAMES[match[1]]),)
