"""Money, and numbers with a unit: "five dollars and twenty cents", "five kilometers per hour"."""

import re

from csm_trio.text.normalization.lexicon import (
    CENTS,
    CURRENCIES,
    PER,
    SCALES,
    TOUCHING_UNITS,
    UNITS,
)
from csm_trio.text.normalization.numbers import (
    NUMBER,
    NUMBER_STARTS,
    QUANTITY,
    cardinal,
    number,
    quantity,
)
from csm_trio.text.normalization.rules import Rule


def _any(names: list[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


_SIGNS = [name for name in CURRENCIES if not name.isalpha() and name != "¢"]
_CODES = [name for name in CURRENCIES if name.isalpha()]
_SCALE = (
    r"(?:(?P<gap> |-)(?P<scale>hundred|thousand|million|billion|trillion)(?!\w)"
    r"|(?P<short> ?(?:[kKmMbBtT]|[mbt]n|Bn|MM|mm|mil|bil))(?![\w.]\w|\w))?"
)
_PER_UNIT = rf"(?: ?/ ?(?P<per>{_any(list(PER))})(?![\w/]))?"

_SIGN_FIRST = re.compile(
    rf"(?<![\w$€£])(?P<article>[Aa]n? )?(?P<minus>-)?(?P<currency>{_any(_SIGNS)}|"
    rf"(?:{_any(_CODES)})(?= ?\d)) ?(?P<minus2>-)?(?P<number>{NUMBER})"
    rf"(?: ?- ?(?:{_any(_SIGNS)})?(?P<last>{NUMBER}))?"
    + _SCALE
    + _PER_UNIT
    + r"(?: (?:dollars?|euros?|pounds?|USD|EUR|GBP)\b)?(?P<noun>(?=[ -][a-z]))?"
)
_SIGN_LAST = re.compile(
    rf"{NUMBER_STARTS}(?P<minus>(?<![\w)])-)?(?P<number>{NUMBER})(?: ?- ?(?P<last>{NUMBER}))?"
    + _SCALE
    + rf" ?(?P<currency>{_any([*_SIGNS, '¢'])}|(?:{_any(_CODES)})\b)(?!\d)"
    + _PER_UNIT
)
_SCALED = re.compile(
    rf"{NUMBER_STARTS}(?P<minus>(?<![\w)])-)?(?P<number>{NUMBER})(?P<scale>k|[MB](?= [a-z])"
    r"|(?<=\.\d)[MB]|bn|mn|tn)(?![\w-])"
)
_PLACE = re.compile(
    r"(?:Room|Apt|Apartment|Suite|Unit|Gate|Seat|Row|Floor|Section|Exhibit|Form) \Z"
)

_UNIT = _any([*UNITS, "F", "C"])
_MEASURE = re.compile(
    rf"{NUMBER_STARTS}(?P<sign>(?<![\w)%°-])-|[+±])?(?P<number>{QUANTITY})"
    rf"(?:(?P<mid>[%°]?)(?: ?- ?| to )(?P<last>{QUANTITY}))?"
    rf"(?P<gap> |-|)(?P<unit>{_UNIT})(?![\w²³])(?:\.(?= [a-z0-9]))?"
    rf"(?: ?/ ?(?P<per>{_any(list(PER))})(?P<power>[²2]?)(?![\w/]))?"
)
_INCHES = re.compile(
    rf"{NUMBER_STARTS}({NUMBER})\""
    r"(?= (?:(wide|tall|long|deep|high|thick|by|x)|screen|monitor|TV|display)\b)"
)
_FEET_INCHES = re.compile(r"(?<![\w'.,])(\d{1,3})' ?(\d{1,2})(?:\"|''|(?!\w|'))(?!\w)")


def _money(match: re.Match[str]) -> str:
    groups = match.groupdict()
    one, many = CURRENCIES[match["currency"]]
    scale = SCALES[(groups["scale"] or groups["short"] or "").strip()] if _scaled(groups) else ""
    minus = "minus " if groups["minus"] or groups.get("minus2") else ""
    last = groups["last"]
    article = groups.get("article") or ""
    adjective = bool(article) and groups.get("noun") is not None
    exact = _exact(match["number"], one, one if adjective else many, adjective=adjective)
    if last or scale or not exact:
        words = number(match["number"]) + (f" to {number(last)}" if last else "")
        words += f" {scale}" if scale else ""
        single = adjective or (not last and not scale and match["number"] == "1")
        exact = f"{words} {one if single else many}"
    per = f" per {PER[match['per']]}" if match["per"] else ""
    return f"{article}{minus}{exact}{per}"


def _scaled(groups: dict[str, str | None]) -> bool:
    return bool(groups["scale"] or groups["short"])


def _exact(written: str, one: str, many: str, *, adjective: bool) -> str | None:
    """Return an amount in whole coins, or None unless it has no or two decimals."""
    whole, point, decimals = written.replace(",", "").partition(".")
    if point and (len(decimals) != 2 or one not in CENTS):
        return None
    if (len(whole) > 1 and whole[0] == "0") or len(whole) > 30:
        return None
    units, hundredths = int(whole), int(decimals or 0)
    cent, cents = CENTS.get(one, ("", ""))
    spoken = f"{cardinal(units)} {one if units == 1 else many}"
    if not hundredths:
        return spoken
    small = f"{cardinal(hundredths)} {cent if hundredths == 1 or adjective else cents}"
    return f"{spoken} and {small}" if units else small


def _bare_scaled(match: re.Match[str]) -> str | None:
    if _PLACE.search(match.string, max(0, match.start() - 12), match.start()):
        return None
    minus = "minus " if match["minus"] else ""
    return f"{minus}{number(match['number'])} {SCALES[match['scale']]}"


def _measure(match: re.Match[str]) -> str | None:
    unit, gap, last = match["unit"], match["gap"], match["last"]
    if unit in ("F", "C"):
        if gap == "-" or (not gap and not _is_temperature(match)):
            return None
        unit = f"°{unit}"
    if (gap and unit in TOUCHING_UNITS) or (gap == "-" and not unit.isalpha()):
        return None
    one, many = UNITS[unit]
    singular = gap == "-" or (_is_one(match["number"]) and not last)
    words = quantity(match["number"]) + (f" to {quantity(last)}" if last else "")
    sign = {"-": "minus ", "+": "plus ", "±": "plus or minus "}.get(match["sign"] or "", "")
    spoken = f"{sign}{words} {one if singular else many}"
    if match["per"]:
        spoken += f" per {PER[match['per']]}{' squared' if match['power'] else ''}"
    return spoken


def _is_temperature(match: re.Match[str]) -> bool:
    return match["number"].replace(".", "").isdecimal() and float(match["number"]) < 150


def _is_one(written: str) -> bool:
    return written == "1" or ("/" in written and " " not in written and written[0] != "0")


def _feet_inches(match: re.Match[str]) -> str | None:
    if int(match[2]) > 11:
        return None
    return f"{number(match[1])} foot {number(match[2])}"


def _inches(match: re.Match[str]) -> str:
    return f"{number(match[1])} {'inches' if match[2] and match[1] != '1' else 'inch'}"


MONEY = (Rule(_SIGN_FIRST, _money), Rule(_SIGN_LAST, _money), Rule(_SCALED, _bare_scaled))
MEASURES = (Rule(_INCHES, _inches), Rule(_FEET_INCHES, _feet_inches), Rule(_MEASURE, _measure))
