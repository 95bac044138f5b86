"""Names of days and months: abbreviations, spans and lists of them."""

import re

from csm_trio.text.normalization.lexicon import MONTHS, WEEKDAYS
from csm_trio.text.normalization.rules import Rule, ends_sentence

MONTH_OF = {name[:3]: name for name in MONTHS} | {"Sept": "September"}
_DAY_OF = {name[:3]: name for name in WEEKDAYS} | {
    "Tues": "Tuesday",
    "Thur": "Thursday",
    "Thurs": "Thursday",
    "Weds": "Wednesday",
}
_LETTERS = {
    **{"M": "Monday", "T": "Tuesday", "Tu": "Tuesday", "W": "Wednesday", "Th": "Thursday"},
    **{"F": "Friday", "R": "Thursday", "Sa": "Saturday", "Su": "Sunday", "We": "Wednesday"},
    **{"Mo": "Monday", "Fr": "Friday", "S": "Saturday"},
}
MONTH = rf"(?:{'|'.join(MONTHS)}|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept|Sep|Oct|Nov|Dec)\b\.?)"
DAY = r"\d{1,2}(?:st|nd|rd|th)?"
WEEKDAY = rf"(?:{'|'.join(WEEKDAYS)}|(?:Mon|Tues|Tue|Weds|Wed|Thurs|Thur|Thu|Fri|Sat|Sun)\b\.?)"
YEAR = r"(?:1\d|20)\d\d"
"""Patterns of a month, a day of it, a weekday and a year."""

_MONTH_NAME = re.compile(r"(?<!\w)(Jan|Feb|Mar|Apr|Aug|Sept?|Oct|Nov|Dec)\.(?!\w)")
_DAY_NAME = re.compile(
    rf"(?<!\w)(?:(Mon|Tues?|Weds?|Thu(?:rs?)?|Fri)\.(?!\w)"
    r"|(Sat|Sun)\.(?= (?:at|from|and|or|to|through|&) )|(?:(?<=day and )|(?<=day or ))(Sat|"
    r"Sun)\b\.?"
    rf"|(?<![Tt]he )(Mon|Tues?|Weds?|Thu(?:rs?)?|Fri|Sat|Sun)\.?(?=:? \d|,? (?:{MONTH}|\d|at\b|@)))"
)
_DAY_AFTER = re.compile(
    r"(?<=[Oo]n )(Mon|Tues?|Weds?|Thu(?:rs?)?|Fri|Sat|Sun)\b(?!\.)"
    r"|(?<=[Nn]ext )(Mon|Tues?|Weds?|Thu(?:rs?)?|Fri|Sat|Sun)\b(?!\.)"
    r"|(?<=[Tt]his )(Mon|Tues?|Weds?|Thu(?:rs?)?|Fri|Sat|Sun)\b(?!\.)"
    r"|(?<=[Ll]ast )(Mon|Tues?|Weds?|Thu(?:rs?)?|Fri|Sat|Sun)\b(?!\.)"
    r"|(?<=coming )(Mon|Tues?|Weds?|Thu(?:rs?)?|Fri|Sat|Sun)\b(?!\.)"
    r"|(?<=[Bb]y )(Mon|Tues?|Weds?|Thu(?:rs?)?|Fri|Sat|Sun)\b(?!\.)"
    r"|(?<=[Ee]very )(Mon|Tues?|Weds?|Thu(?:rs?)?|Fri|Sat|Sun)\b(?!\.)"
    r"|(?<=[Uu]ntil )(Mon|Tues?|Weds?|Thu(?:rs?)?|Fri|Sat|Sun)\b(?!\.)"
    r"|(?<!\w)(Tues|Weds|Thurs|Thur)\b(?!\.)"
)
_NAMES_RANGE = re.compile(rf"(?<!\w)(?:({WEEKDAY}) ?- ?({WEEKDAY})|({MONTH}) ?- ?({MONTH}))(?!\w)")
_LETTER = r"(?:Mo|Tu|We|Th|Fr|Sa|Su|[MTWRF])"
_LETTERS_RANGE = re.compile(
    r"(?<![\w/-])(M|Mo|Tu?|We?|Th|Fr?|Sa) ?- ?(Th|Fr?|Sa|Su|W|Tu)(?![\w/'-])"
)
_LETTER_TO_NAME = re.compile(rf"(?<![\w/-])(M|Mo|Tu|W|Th) ?- ?(?=(?:{WEEKDAY})(?![\w/'-]))")
_MONTH_DAYS = re.compile(rf"(?<=\d) - (?=(?:{MONTH}) \d{{1,2}}(?![\w:/]))")
_LETTERS_LIST = re.compile(
    rf"(?<![\w/])(?:{_LETTER}/(?:{_LETTER}/){{1,4}}{_LETTER}|M-W-F|M,W,F|T,Th|Tu,Th|(?:Tu?|M|Mo|W|We)/(?:Th|R)|(?:Tu?|M|Mo)/(?:W|We)|W/F|Sa/Su)(?![\w/])"
)
_NAMES_LIST = re.compile(rf"(?<![\w/]){WEEKDAY}(?:/{WEEKDAY}){{1,6}}(?![\w/])")
_RUN_TOGETHER = re.compile(r"\b(?:MWF|TTh|TuTh|MTWThF|MTWTF)\b")
_RUN_LETTER = re.compile(r"Tu|Th|[MTWF]")
_FIRST_NAMES = re.compile(
    rf"(?<!\w)(Mon|Tues?|Weds?|Thu(?:rs?)?|Fri|Sat)(?=,? (?:&|and|or) {WEEKDAY}|, {WEEKDAY})"
)
_NEXT_NAMES = re.compile(
    r"(?:(?<=day and )|(?<=day or )|(?<=day & )|(?<=day, ))"
    r"(?:(Mon|Tues?|Weds?|Thu(?:rs?)?|Fri)\b(?!\.)|(Sat|Sun)\b\.?)"
)


def _name(match: re.Match[str]) -> str:
    written = next(filter(None, match.groups()))
    full = MONTH_OF.get(written) or _DAY_OF[written]
    stop = match[0].endswith(".") and ends_sentence(match.string, match.end())
    return f"{full}." if stop else full


def _names_range(match: re.Match[str]) -> str:
    first, last = [name.rstrip(".") for name in match.groups() if name]
    names = _DAY_OF | MONTH_OF
    stop = match[0].endswith(".") and ends_sentence(match.string, match.end())
    return f"{names.get(first, first)} to {names.get(last, last)}{'.' if stop else ''}"


def _names_list(match: re.Match[str]) -> str:
    names = [name.rstrip(".") for name in match[0].split("/")]
    stop = match[0].endswith(".") and ends_sentence(match.string, match.end())
    return f"{_listed([_DAY_OF.get(name, name) for name in names])}{'.' if stop else ''}"


def _letters_list(match: re.Match[str]) -> str:
    return _listed([_LETTERS[letter] for letter in re.split("[/,-]", match[0])])


def _run_together(match: re.Match[str]) -> str:
    return _listed([_LETTERS[letter] for letter in _RUN_LETTER.findall(match[0])])


def _listed(names: list[str]) -> str:
    """Return "Monday, Wednesday and Friday"."""
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _letters_range(match: re.Match[str]) -> str:
    return f"{_LETTERS[match[1]]} to {_LETTERS[match[2]]}"


NAMES = (
    Rule(_LETTER_TO_NAME, lambda match: f"{_LETTERS[match[1]]} to "),
    Rule(_MONTH_DAYS, " to "),
    Rule(_LETTERS_RANGE, _letters_range),
    Rule(_LETTERS_LIST, _letters_list),
    Rule(_RUN_TOGETHER, _run_together),
    Rule(_NAMES_LIST, _names_list),
    Rule(_NAMES_RANGE, _names_range),
    Rule(_MONTH_NAME, _name),
    Rule(_DAY_NAME, _name),
    Rule(_DAY_AFTER, _name),
    Rule(_FIRST_NAMES, _name),
    Rule(_NEXT_NAMES, _name),
)
