"""Streets, compass points and titles, which share abbreviations: "St.", "Dr.", "Sr."."""

import re

from csm_trio.text.normalization.lexicon import NAME_PARTS, NAME_VERBS, STREETS, TITLES
from csm_trio.text.normalization.rules import Rule, ends_sentence, tail

_POINTS = {
    "N": "North",
    "S": "South",
    "E": "East",
    "W": "West",
    "NE": "Northeast",
    "NW": "Northwest",
    "SE": "Southeast",
    "SW": "Southwest",
}
_POINT = r"(?P<point>[NS][EW]|[NSEW])"
_ANY_STREET = "|".join(sorted(STREETS, key=len, reverse=True))
_STREET_NAMES = "|".join([*STREETS.values(), "Way"])

_COMPASS_BEFORE = re.compile(
    rf"(?:(?<=\d )|(?<=[\w,] )|^){_POINT}\b\.?"
    rf"(?= (?:[A-Z][\w'-]{{1,20}} |\d{{1,3}}(?:st|nd|rd|th) ){{1,3}}(?:{_ANY_STREET}|"
    rf"{_STREET_NAMES})\b)"
    rf"|(?<=\d )(?P<after>[NS][EW]|[NSEW])\.?(?= (?:[A-Z][a-z]|\d{{1,3}}(?:st|nd|rd|th)\b))"
)
_COMPASS_AFTER = re.compile(
    rf"(?:(?<= )|^)(?P<road>(?:{_ANY_STREET})\.?|{_STREET_NAMES}|Broadway) {_POINT}\b(?P<stop>\.?)"
)
_COMPASS_ROAD = re.compile(
    rf"(?P<road>\b(?:I|US|SR|CA|TX|Hwy\.?|Highway|Route|Rte\.?|Interstate|"
    rf"Exit)[ -]?\d{{1,3}}[A-Z]?) {_POINT}"
    r"\b(?P<stop>\.?)(?!')"
)
_HEADING = re.compile(
    r"\b(?P<road>[Hh]ead(?:ing|ed|s)?|[Ff]ac(?:e|es|ing)|[Dd]riv(?:e|es|ing)|[Gg]o(?:ing)?|"
    r"[Tt]urn) "
    rf"{_POINT}\b(?P<stop>\.?)(?= |[,.;]|$)"
)

_STREET = re.compile(rf"(?:(?<=[\w'] )|(?<=[\w]\. ))(?P<name>{_ANY_STREET})\b(?P<stop>\.?)(?!\w)")
_LOWER_STREET = re.compile(
    r"(?<!\w)(?P<before>\d{1,6} (?:[nsew]\.? )?(?:[a-z]{3,15} ){1,2}|\d{1,3}(?:st|nd|rd|th) )"
    r"(?P<name>st|ave|rd|blvd|ln|dr|ct|pkwy|hwy)\b(?P<stop>\.?)"
)
_BEFORE = re.compile(r"([\w'.-]{1,30}) \Z")
_ADDRESS_BEFORE = re.compile(
    r"(?<!\w)\d[\w-]{0,6} (?:(?:[NSEW]|North|South|East|West)\.? )?(?:[A-Z][\w'-]{1,20} ){1,3}\Z"
)
_ORDINAL = re.compile(r"\d{1,3}(?:st|nd|rd|th)")
_NAME_FOLLOWS = re.compile(
    r" (?!Apt\b|Apartment\b|Suite\b|Ste\b|Unit\b|Floor\b|Rm\b|[NSEW]\b)[A-Z]"
)
_WITH_STOP = frozenset(["Ct", "Pl", "Sq", "Ter", "Cir", "Hts", "Trl", "Aly", "Xing", "St", "Dr"])

_ROLES = (
    "Engineer|Manager|Director|Developer|Analyst|Vice|VP|Software|Product|Account|Sales|Project|"
    "Program|Consultant|Associate|Accountant|Designer|Data|Citizen|Editor|Officer|Staff|Executive|"
    "Research|Scientist|Partner|Counsel|Technician|Administrator|Business|Marketing"
)
_SISTER = re.compile(rf"(?:(?<![\w.])(?<![\w'] )|(?<=[a-z] ))Sr\.(?= (?!{_ROLES})[A-Z][a-z])")
_TITLE = re.compile(
    rf"(?<![\w.])(?!Gen\. [XYZ]\b)(?:(Mr|Mrs|Ms|Messrs)\.|"
    rf"({'|'.join(sorted(TITLES, key=len, reverse=True))})"
    r"\.(?= ?[A-Z])|(Drs?)\.(?= (?:[a-z]|$)))"
)
_PLAIN_TITLE = re.compile(r"\b(?:(Mr|Mrs)|(Dr))(?= [A-Z][a-z])")
_LOWER_TITLE = re.compile(r"(?<![\w.])(mr|mrs|ms|dr|prof)\. (?=[A-Za-z]{2})")


def _stop(match: re.Match[str]) -> str:
    return "." if match["stop"] and ends_sentence(match.string, match.end()) else ""


def _compass_before(match: re.Match[str]) -> str:
    return _POINTS[match["point"] or match["after"]]


def _compass_after(match: re.Match[str]) -> str:
    road = match["road"]
    road = STREETS.get(road.rstrip("."), road)
    return f"{road} {_POINTS[match['point']]}{_stop(match)}"


def _street(match: re.Match[str]) -> str | None:
    """Expand an abbreviation after a name as a street, unless it may be a title.

    "12 Elm Dr. Apt. 4" is a street whatever follows; "Elm Dr." is one if no name does; "See Dr."
    and "Port St. Lucie" are none.
    """
    name, text = match["name"], match.string
    before = _BEFORE.search(tail(text, match.start(), 31))
    if before is None:
        return None
    word = before[1]
    follows = _NAME_FOLLOWS.match(text, match.end()) is not None
    named = word[0].isupper() and (
        word not in NAME_VERBS or (word in NAME_PARTS and name == "St" and not follows)
    )
    if not named and not _ORDINAL.fullmatch(word):
        return None
    if not _ADDRESS_BEFORE.search(tail(text, match.start(), 80)):
        if name in _WITH_STOP and not match["stop"] and (name != "St" or follows):
            return None
        if name == "Dr" and follows:
            return None
    return f"{STREETS[name]}{_stop(match)}"


def _lower_street(match: re.Match[str]) -> str:
    return f"{match['before']}{STREETS[match['name'].capitalize()].lower()}{_stop(match)}"


def _title(match: re.Match[str]) -> str:
    glued = match.string[match.end() :][:1].isalpha()
    return f"{TITLES[next(filter(None, match.groups()))]}{' ' if glued else ''}"


def _lower_title(match: re.Match[str]) -> str:
    return f"{TITLES[match[1].capitalize()].lower()} "


_SIDE = re.compile(rf"(?<=[a-z.] )(?<![\w.]\.)({_POINT})(?= of (?:[a-z]|[A-Z][a-z]))")
_LATITUDE = re.compile(rf"(?P<road>(?<=[0-9])°) ?{_POINT}\b(?P<stop>\.?)(?![\w'])")
_SIDE_OF = re.compile(
    rf"(?<=[Tt]he ){_POINT}(?= (?:side|end|entrance|corner|wing|tower|lot|bank|half|coast)\b)"
)
_DISTANCE = re.compile(
    rf"(?<=\d )(?P<road>mi|km|ft|miles|blocks|feet)\.? {_POINT}(?P<stop>\b\.?)(?=[ ,;]|$)(?! [A-Z])"
)
STREETS_AND_TITLES = (
    Rule(_SIDE_OF, lambda match: _POINTS[match["point"]].lower()),
    Rule(
        _DISTANCE, lambda match: f"{match['road']} {_POINTS[match['point']].lower()}{_stop(match)}"
    ),
    Rule(_LATITUDE, _compass_after),
    Rule(_SIDE, lambda match: _POINTS[match[1]].lower()),
    Rule(_COMPASS_BEFORE, _compass_before),
    Rule(_COMPASS_AFTER, _compass_after),
    Rule(_COMPASS_ROAD, _compass_after),
    Rule(_HEADING, _compass_after),
    Rule(_STREET, _street),
    Rule(_LOWER_STREET, _lower_street),
    Rule(_SISTER, "Sister"),
    Rule(_TITLE, _title),
    Rule(_PLAIN_TITLE, _title),
    Rule(_LOWER_TITLE, _lower_title),
)
