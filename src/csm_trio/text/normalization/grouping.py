"""Number formats of the world, rewritten as American figures: "1.299,00 €", "1,50,000", "3,5 kg".

A comma before three digits and a point before any are American already: "1,500", "3.142".
"""

# ruff: noqa: RUF001 -- marks that look like ASCII ones are what these patterns are about

import re

from csm_trio.text.normalization.lexicon import CURRENCIES, UNITS
from csm_trio.text.normalization.rules import Rule

_FOREIGN_SIGNS = "|".join(
    re.escape(name)
    for name in sorted(CURRENCIES, key=len, reverse=True)
    if name not in ("$", "US$", "USD", "£", "GBP", "¢")
)
_UNIT = "|".join(re.escape(name) for name in sorted(UNITS, key=len, reverse=True))
_STARTS = r"(?<![\w.,'+-])(?<!\d )"
_ENDS = r"(?![\w']|[.,-]\d)"

_LAKHS = re.compile(
    r"(?:(?<![\w.,])|(?<=Rs\.))(\d{1,2}(?:,\d\d(?!\d)){1,6}+,\d{3})((?:\.\d{1,2})?)(?![\w]|[.,]\d)"
)
_POINTS_AND_COMMA = re.compile(r"(?<![\w.,])(\d{1,3}(?:\.\d{3}){1,8}+)(,\d{1,2})" + _ENDS)
_POINTS = re.compile(r"(?<![\w.,/-])(\d{1,3}(?:\.\d{3}){2,8}+)()" + _ENDS)
_POINT_MONEY = re.compile(
    r"(?:(?<=[€₫₺₽])|(?<=[€₫₺₽] )|(?<=Rp)|(?<=Rp ))(\d{1,3}\.\d{3})()(?!/|[\w]|[.,]\d)"
    r"|(?<![\w.,])(\d{1,3}\.\d{3})()(?= ?(?:€|EUR\b)(?! ?/))"
)
_COMMA_DECIMAL = re.compile(
    rf"{_STARTS}(\d{{1,6}})(,\d{{1,2}})(?= ?(?:{_FOREIGN_SIGNS}|{_UNIT})(?!\w)| ?(?:Mio|Mrd)\b)"
    rf"|(?:(?<=€)|(?<=€ )|(?<=R\$)|(?<=R\$ )|(?<=EUR )|(?<=kr ))(\d{{1,6}})(,\d\d)(?!\d|,\d)"
)
_ROUND_POINT = re.compile(
    rf"(?<![\w.,/$£-])(\d{{2,3}}\.000)()(?= ?(?:{_UNIT})(?!\w)| [a-z]+s\b| people\b)"
)
_SPACES = re.compile(rf"{_STARTS}(\d{{1,3}}(?: \d{{3}}){{2,6}}+)((?:[.,]\d{{1,2}})?)(?![\w-]| ?\d)")
_SPACE = re.compile(
    rf"{_STARTS}(\d{{1,3}} \d{{3}})((?:[.,]\d{{1,2}})?)"
    rf"(?= ?(?:{_FOREIGN_SIGNS}|{_UNIT})(?!\w))(?! ?(?:in|m|s|h|l)\b)"
    r"|(?:(?<=€)|(?<=€ )|(?<=[$£])|(?<=R\$)|(?<=kr )|(?<=Rs )|(?<=EUR )|"
    r"(?<=CHF ))(\d{1,3} \d{3})((?:[.,]\d\d)?)(?![\d.,-]| \d)"
    rf"|{_STARTS}(\d{{1,3}} 000)()(?= [a-z])"
)
_APOSTROPHES = re.compile(r"(?<![\w.,'])(\d{1,3}(?:['’]\d{3}){1,6}+)((?:[.,]\d\d)?)(?![\w'])")


def _american(match: re.Match[str]) -> str:
    """Rewrite the first whole part, and its decimals, with commas between thousands."""
    whole, decimals = next(
        (match[at], match[at + 1]) for at in range(1, match.re.groups, 2) if match[at]
    )
    figures = re.sub(r"\D", "", whole)
    grouped = f"{int(figures):,}" if len(figures) > 3 else figures
    return f"{grouped}{decimals.replace(',', '.')}"


GROUPING = (
    Rule(_LAKHS, _american),
    Rule(_POINTS_AND_COMMA, _american),
    Rule(_POINTS, _american),
    Rule(_POINT_MONEY, _american),
    Rule(_ROUND_POINT, _american),
    Rule(_SPACES, _american),
    Rule(_SPACE, _american),
    Rule(_APOSTROPHES, _american),
    Rule(_COMMA_DECIMAL, _american),
)
