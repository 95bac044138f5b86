"""E-mail addresses, web addresses, IP addresses, @handles and #hashtags, spelled out.

A scheme and a final slash are omitted; other marks are named, digits spelled, words kept.
"""

import re
from collections.abc import Iterator

from csm_trio.text.normalization.lexicon import FILE_ENDINGS, TOP_LEVELS
from csm_trio.text.normalization.numbers import by_digit, cardinal
from csm_trio.text.normalization.rules import Rule, spaced
from csm_trio.text.spans import Replacement

_MARKS = {
    ".": "dot",
    "/": "slash",
    "-": "dash",
    "_": "underscore",
    "@": "at",
    ":": "colon",
    "?": "question mark",
    "=": "equals",
    "&": "and",
    "#": "hash",
    "%": "percent",
    "+": "plus",
    "~": "tilde",
}
_ENDINGS = "|".join(
    sorted(
        [*TOP_LEVELS, *FILE_ENDINGS, *(name.upper() for name in TOP_LEVELS), "Com", "Org", "Net"]
    )
)
_TRAILING = re.compile(r"[.,;:!?'\")\]}*]+$")
_PART = re.compile(r"[^\W\d_]+|\d|[^\s]")

_EMAIL = re.compile(
    r"(?<![\w.+%-])(?:mailto:)?([\w+%-][\w.+%-]{0,63}+@[\w-]{1,63}+(?:\.[\w-]{1,63}+){1,8})",
)
_URL = re.compile(r"(?<![\w@])(?:[a-z]{2,10}://|(?=www\.\w))([^\s<>\"'`|\\^{}]+)", re.IGNORECASE)
_DOMAIN = re.compile(
    rf"(?<![\w@./-])(?:[A-Za-z0-9][\w-]{{0,62}}+\.){{1,6}}(?:{_ENDINGS})"
    r"(?:(?:/|:\d)[^\s<>\"'`|\\^{}]*+|(?![\w@-]|\.\w))",
)
_IP = re.compile(
    r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?::\d{1,5})?(?:/\d{1,2})?(?![\w/]|\.\d)",
)
_HOST = re.compile(r"(?<![\w@./-])localhost:\d{2,5}(?:/[^\s<>\"'`|\\^{}]*+)?(?!\w)")
_PATH = re.compile(r"(?<![^\s(\"'])(?=/\w|~/)~?(?:/[\w.-]{1,63}+){2,9}+/?(?![\w/])")
_HANDLE = re.compile(r"(?<![\w@.])@(\w{1,50})(?!\w)")
_HASHTAG = re.compile(r"(?<![\w#&])#(?=\w{0,49}[^\W\d_])(\w{1,100})")
_CAMEL = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_+|(?<=\D)(?=\d)")


def _spelled(match: re.Match[str], start: int, end: int) -> Iterator[Replacement]:
    """Name each mark, digit and word of an address, each its own span."""
    tail = _TRAILING.search(match.string, start, end)
    stop = tail.start() if tail else end
    if stop > start and match.string[stop - 1] == "/":
        stop -= 1
    glue = ""
    for part in _PART.finditer(match.string, start, stop):
        text = part[0]
        spoken = by_digit(text) if text.isdecimal() else _MARKS.get(text, text)
        yield f"{glue}{spoken}", *part.span()
        glue = " "
    rest = tail.start() if tail else end
    yield "", stop, rest
    yield match.string[rest : match.end()], rest, match.end()


def _email(match: re.Match[str]) -> Iterator[Replacement]:
    yield "", match.start(), match.start(1)
    yield from _spelled(match, *match.span(1))


def _url(match: re.Match[str]) -> Iterator[Replacement]:
    yield "", match.start(), match.start(1)
    start = match.start(1)
    if match[1][:4].lower() == "www.":
        yield "W W W", start, start + 3
        yield " ", start + 3, start + 4
        yield "dot ", start + 3, start + 4
        start += 4
    yield from _spelled(match, start, match.end(1))


def _domain(match: re.Match[str]) -> Iterator[Replacement]:
    return _spelled(match, *match.span())


def _ip(match: re.Match[str]) -> str | None:
    address, _, length = match[0].partition("/")
    host, _, port = address.partition(":")
    octets = host.split(".")
    if any(int(octet) > 255 for octet in octets):
        return None
    spoken = " dot ".join(map(by_digit, octets))
    spoken += f" port {by_digit(port)}" if port else ""
    return spoken + (f" slash {cardinal(int(length))}" if length else "")


def _handle(match: re.Match[str]) -> Iterator[Replacement]:
    yield "at", match.start(), match.start() + 1
    yield " ", match.start(), match.start() + 1
    yield from _spelled(match, *match.span(1))


def _hashtag(match: re.Match[str]) -> str:
    code = match[1].isupper() and (not match[1].isalpha() or match.string[match.end() :][:1] == "-")
    if code:
        return spaced(match, f"number {match[1]}")
    return spaced(match, f"hashtag {_CAMEL.sub(' ', match[1])}")


ADDRESSES = (
    Rule(_EMAIL, _email),
    Rule(_URL, _url),
    Rule(_DOMAIN, _domain),
    Rule(_HOST, _domain),
    Rule(_PATH, _domain),
    Rule(_IP, _ip),
    Rule(_HANDLE, _handle),
    Rule(_HASHTAG, _hashtag),
)
