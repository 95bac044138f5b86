"""Money, and numbers with a unit: "five dollars and twenty cents", "five kilometers per hour"."""

# ruff: noqa: RUF001 -- marks that look like ASCII ones are what these patterns are about

import re

from csm_trio.text.normalization.lexicon import (
    ADJECTIVE_UNITS,
    CENTS,
    CURRENCIES,
    EXTENT_UNITS,
    LETTER_UNITS,
    PER,
    SCALES,
    TOUCHING_UNITS,
    UNITS,
)
from csm_trio.text.normalization.numbers import (
    NUMBER,
    NUMBER_STARTS,
    QUANTITY,
    VULGAR,
    cardinal,
    number,
    quantity,
)
from csm_trio.text.normalization.rules import (
    Rule,
    ends_sentence,
    is_adjective,
    is_label,
    noun_after,
    tail,
)


def _any(names: list[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


_SIGNS = [name for name in CURRENCIES if not name.isalpha() and name != "¢"]
_CODES = [name for name in CURRENCIES if name.isalpha()]
_AMOUNT = rf"(?:{NUMBER}|\.\d{{1,2}}(?!\d))"
_SHORT = r"(?: ?(?:[kKmMbBtT]|[mbt]n|Bn|MM|mm|mil|bil|Mio|mio|Mrd|Cr|cr|L))"
_SCALE = (
    r"(?:(?P<gap> |-)(?P<scale>hundred|thousand|million|billion|trillion|lakhs?|lacs?|crores?)"
    r"(?!\w)"
    rf"|(?P<short>{_SHORT})(?:\.(?= [a-z€]))?(?![\w.]\w|\w))?"
)
_FIRST_SCALE = (
    rf"(?P<first_scale>(?:{_SHORT}| (?:thousand|million|billion|trillion|lakh|crore))(?= ?-))?"
)
_PER_UNIT = rf"(?: ?/ ?(?P<per>{_any(list(PER))})(?![\w/])(?:\.(?= [a-z]))?)?"

_SIGN_FIRST = re.compile(
    rf"(?<![\w$€£])(?P<minus>-)?(?P<currency>{_any(_SIGNS)}|"
    rf"(?:{_any(_CODES)})(?= ?\.?\d)) ?(?P<minus2>-)?(?P<number>{_AMOUNT})"
    rf"(?:{_FIRST_SCALE} ?- ?(?:{_any(_SIGNS)})?(?P<last>{NUMBER}))?"
    + _SCALE
    + r"(?:/-|[.,]-(?!\w))?"
    + _PER_UNIT
    + r"(?: (?:dollars?|euros?|pounds?|rupees?|USD|EUR|GBP)\b)?"
)
_SIGN_LAST = re.compile(
    rf"{NUMBER_STARTS}(?P<minus>(?<![\w)])-)?(?P<number>{NUMBER})"
    rf"(?:(?:{_any(_SIGNS)})?{_FIRST_SCALE} ?- ?(?P<last>{NUMBER}))?"
    + _SCALE
    + rf" ?(?P<currency>{_any([*_SIGNS, '¢'])}|(?:{_any(_CODES)})\b)(?!\d)"
    + _PER_UNIT
)
_COUNTED = r"(?= (?:[a-z]+s|people|in|of|from|more|per)\b)"
_SCALED = re.compile(
    rf"{NUMBER_STARTS}(?<![^\W\d_]-)(?P<minus>(?<![\w)])-)?(?P<number>{NUMBER})"
    rf"(?:(?P<first_scale>[kKMB])? ?- ?(?P<last>{NUMBER}))?"
    rf"(?P<scale>k|[MB]{_COUNTED}|(?<=\.\d)[MBK]|(?<=\d\d)K(?! (?:run|race|walk)\b)| ?[bmt]n)"
    r"(?![\w-])(?: (?P<unit>mi|km|lbs?|kg|ft|sq ft|mins|hrs|yrs|tons)\b(?:\.(?= [a-z]))?)?"
)

_UNIT = _any([*UNITS, "F", "C"])
_MEASURE = re.compile(
    rf"{NUMBER_STARTS}(?<![^\W\d_]-)(?P<sign>(?<![\w)%°-])-|[+±])?(?P<number>{QUANTITY})"
    rf"(?:(?P<mid>[%°]?)(?: ?- ?| to )(?P<last>{QUANTITY}))?"
    rf"(?P<gap> |-|)(?P<unit>{_UNIT})(?![\w²³]|-\d)(?P<stop>\.(?=[,;)/]| [a-z0-9(+=]))?"
    rf"(?: ?/ ?(?P<per>{_any(list(PER))})(?P<power>[²2]?)(?:/(?P<then>{_any(list(PER))}))?(?![\w/])"
    r"(?:\.(?= [a-z]))?)?"
)
_DIMENSION = r"wide|tall|long|deep|high|thick|by|x|in diameter|of (?:rain|snow)|across|apart"
_DIMENSION_AFTER = re.compile(rf"\.?,? (?:{_DIMENSION})\b")
_TYPE_AFTER = re.compile(r" (?:font|type|text|line|shot|lead|game|range|scale|size|shooter|play)\b")
_INCHES = re.compile(  # a quotation is left as it is
    rf"(?<![\w\"])\"[^\"]{{0,400}}+\"|{NUMBER_STARTS}(?P<number>{QUANTITY})\"(?!\w)"
)
_FEET = r"(?:'|ft\.?|feet|foot)"
_FEET_INCHES = re.compile(
    rf"(?<![\w'.,])(\d{{1,3}}) ?{_FEET}[ -]?(?:and )?(\d{{1,2}}(?:\.\d|[½¼¾])?)"
    r" ?(?:\"|''|in\.(?=[ ,;)]| ?$)|in(?:ch(?:es)?)?\b|(?![\w']|[-/.:]\d))"
)
_FEET_MARK = re.compile(
    r"(?<![\w'.,])(\d{1,3})'(?= ?[x×] ?\d| by \d|(?: (?:tall|wide|long|deep|high)\b))|"
    r"(?<=by )(\d{1,3})'(?!\w)"
)

_TEMPERATURE_BEFORE = re.compile(
    r"(?:\b(?:is|at|to|of|around|about|below|above|near|over|under|high|low|temp\w*|reach\w*|hit|be|"
    r"was|were|like|than|minus|and|it's|from|between|hits|highs?|lows?),?:? |[-~(:] ?)\Z",
    re.IGNORECASE,
)
_TEMPERATURE_AFTER = re.compile(
    r" (?:outside|today|tonight|tomorrow|inside|now|in the|weather|water|heat|degrees|"
    r"all day)\b|[-/]"
)


def _money(match: re.Match[str]) -> str:
    groups = match.groupdict()
    one, many = CURRENCIES[match["currency"]]
    scale = SCALES[(groups["scale"] or groups["short"] or "").strip()] if _scaled(groups) else ""
    minus = "minus " if groups["minus"] or groups.get("minus2") else ""
    first, last = match["number"], match["last"]
    adjective = is_adjective(match.string, match.start(), match.end())
    names = (one, one if adjective else many)
    spoken = None
    if not scale and not groups["first_scale"]:
        spoken = _exact_span(first, last, names, adjective=adjective)
    if spoken is None:
        words = _scaled_span(first, (groups["first_scale"] or "").strip(), last, scale)
        single = adjective or (not last and not scale and first == "1")
        spoken = f"{words} {one if single else many}"
    per = f" per {PER[match['per']]}" if match["per"] else ""
    return f"{minus}{spoken}{per}"


def _scaled(groups: dict[str, str | None]) -> bool:
    return bool(groups["scale"] or groups["short"])


def _scaled_span(first: str, first_scale: str, last: str | None, scale: str) -> str:
    """Return "one million to two million", "five to ten thousand", "five"."""
    words = number(first)
    if first_scale:
        words += f" {SCALES[first_scale]}"
    if last:
        words += f" to {number(last)}"
    return f"{words} {scale}" if scale else words


def _exact_span(
    first: str, last: str | None, names: tuple[str, str], *, adjective: bool
) -> str | None:
    one, many = names
    if last is None:
        return _exact(first, one, many, adjective=adjective)
    if "." not in first + last:
        return None
    amounts = [_exact(written, one, many, adjective=adjective) for written in (first, last)]
    return f"{amounts[0]} to {amounts[1]}" if all(amounts) else None


def _exact(written: str, one: str, many: str, *, adjective: bool) -> str | None:
    """Return an amount in whole coins, or None unless it has no or two decimals."""
    whole, point, decimals = written.replace(",", "").partition(".")
    if point and (len(decimals) != 2 or one not in CENTS):
        return None
    if (len(whole) > 1 and whole[0] == "0") or len(whole) > 30:
        return None
    units, hundredths = int(whole or 0), int(decimals or 0)
    cent, cents = CENTS.get(one, ("", ""))
    spoken = f"{cardinal(units)} {one if units == 1 else many}"
    if not hundredths:
        return spoken
    small = f"{cardinal(hundredths)} {cent if hundredths == 1 or adjective else cents}"
    return f"{spoken} and {small}" if units else small


def _bare_scaled(match: re.Match[str]) -> str | None:
    if is_label(match.string, match.start()):
        return None
    minus = "minus " if match["minus"] else ""
    scale = SCALES[match["scale"].strip()]
    words = _scaled_span(match["number"], match["first_scale"] or "", match["last"], scale)
    unit = f" {UNITS.get(match['unit'], ('', match['unit']))[1]}" if match["unit"] else ""
    return f"{minus}{words}{unit}"


def _measure(match: re.Match[str]) -> str | None:
    unit, gap, last = match["unit"], match["gap"], match["last"]
    if not _has_reason(match):
        return None
    if unit == "pt" and _TYPE_AFTER.match(match.string, match.end()):
        unit = "pts"
    one, many = UNITS[f"°{unit}" if unit in ("F", "C") else unit]
    singular = gap == "-" or _describes(match) or (_is_one(match["number"]) and not last)
    words = quantity(match["number"]) + (f" to {quantity(last)}" if last else "")
    sign = {"-": "minus ", "+": "plus ", "±": "plus or minus "}.get(match["sign"] or "", "")
    spoken = f"{sign}{words} {one if singular else many}"
    if match["per"]:
        spoken += f" per {PER[match['per']]}{' squared' if match['power'] else ''}"
        spoken += f" per {PER[match['then']]}" if match["then"] else ""
    return spoken


def _has_reason(match: re.Match[str]) -> bool:
    """Return whether the letters after a number are its unit, not a part of a name."""
    unit, gap = match["unit"], match["gap"]
    if (gap and unit in TOUCHING_UNITS) or (gap == "-" and not unit.isalpha()):
        return False
    if unit in LETTER_UNITS and is_label(match.string, match.start()):
        return False
    if unit == "in":
        ends = match.end("unit")
        dot = match.string.startswith(".", ends)
        return dot or gap == "-" or _DIMENSION_AFTER.match(match.string, ends) is not None
    return unit not in ("F", "C") or _is_temperature(match)


def _is_temperature(match: re.Match[str]) -> bool:
    written, text = match["number"], match.string
    if match["gap"] == "-" or not written.replace(".", "").isdecimal():
        return False
    reason = (
        "." in written
        or match["sign"]
        or match["last"]
        or _TEMPERATURE_BEFORE.search(tail(text, match.start(), 16))
        or _TEMPERATURE_AFTER.match(text, match.end())
        or (match.start() == 0 and match.end() == len(text.rstrip(".")))
    )
    return bool(reason) and float(written) < 500


def _describes(match: re.Match[str]) -> bool:
    """Return whether a measure describes a noun: "a 12 oz can", "60W bulbs"."""
    if match["unit"] in ("%", "°", "F", "C"):
        return False
    if is_adjective(match.string, match.start(), match.end()):
        return True
    noun = noun_after(match.string, match.end())
    if match["unit"] in EXTENT_UNITS:
        return bool(noun) and not noun.endswith(("ly", "ing", "ed"))
    return noun.endswith("s") and match["unit"] in ADJECTIVE_UNITS


def _is_one(written: str) -> bool:
    return written in ("1", *VULGAR) or (
        "/" in written and " " not in written and written[0] != "0"
    )


def _feet_inches(match: re.Match[str]) -> str | None:
    if float(match[2].rstrip("½¼¾") or 0) >= 12:
        return None
    stop = "." if match[0][-1] == "." and ends_sentence(match.string, match.end()) else ""
    return f"{number(match[1])} foot {quantity(match[2])}{stop}"


def _feet(match: re.Match[str]) -> str:
    written = match[1] or match[2]
    return f"{number(written)} {'foot' if written == '1' else 'feet'}"


def _inches(match: re.Match[str]) -> str | None:
    if match["number"] is None:
        return None
    text, start, end = match.string, match.start(), match.end()
    describes = noun_after(text, end) and not _DIMENSION_AFTER.match(text, end)
    single = _is_one(match["number"]) or describes or is_adjective(text, start, end)
    return f"{quantity(match['number'])} {'inch' if single else 'inches'}"


_FEET_SPAN = re.compile(r"(?<=[\"'\d]) ?- ?(?=\d{1,2}' ?\d)")
LENGTHS = (
    Rule(_FEET_SPAN, " to "),
    Rule(_FEET_INCHES, _feet_inches),
    Rule(_INCHES, _inches),
    Rule(_FEET_MARK, _feet),
)
_PER_SPAN = re.compile(rf"(?<=\d)(/ ?(?:{_any(list(PER))})) ?- ?(?=(?:{_any(_SIGNS)})\d)")
_FOR = re.compile(rf"(?<![\w.,/])(\d{{1,2}}) ?/ ?(?=(?:{_any(_SIGNS)}) ?\d)")
_PER_PERSON = re.compile(rf"((?:{_any(_SIGNS)}) ?\d[\d,.]{{0,12}}) ?pp\b\.?")
MONEY = (
    Rule(_FOR, lambda match: f"{match[1]} for "),
    Rule(_PER_PERSON, lambda match: f"{match[1]}/person"),
    Rule(_PER_SPAN, lambda match: f"{match[1]} to "),
    Rule(_SIGN_FIRST, _money),
    Rule(_SIGN_LAST, _money),
    Rule(_SCALED, _bare_scaled),
)
MEASURES = (Rule(_MEASURE, _measure),)
