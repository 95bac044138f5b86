"""SSML reader: turn text deltas with tags into plain text and pauses.

The reader is not an XML parser: it expands no declared entity and builds no tree.
"""

import html
import re
from collections.abc import Callable
from dataclasses import dataclass

from csm_trio.errors import InvalidRequest

MAX_BREAK_MS = 3_000
"""Maximum length of a `<break>` in ms, as documented by ElevenLabs."""
MAX_TAG_CHARS = 1_000
MAX_DEPTH = 32

_STRENGTHS_MS = {  # SSML 1.1 §3.2.3 defines the names; engines choose the durations
    **{"none": 0, "x-weak": 100, "weak": 250, "medium": 500, "strong": 750, "x-strong": 1_000},
}
_ENDING_TAGS = frozenset({"p", "s", "br"})
_UNPAIRED_TAGS = frozenset({"break", "br"})
_BREAK = "<break"

_QUOTED = r"\"[^\"<]*+\"|'[^'<]*+'"
_TAG = re.compile(rf"<(/?)([A-Za-z_][\w:.-]{{0,63}}+)(?=[\s/>])((?:[^<>\"']|{_QUOTED})*+)>")
_TAG_BEGUN = re.compile(rf"<(?:/?[A-Za-z_](?:[^<>\"']|{_QUOTED})*+(?:\"[^\"<]*+|'[^'<]*+)?|/)?\Z")
_ATTRIBUTE = re.compile(rf"(?<![\w:.-])([\w:.-]++)\s*+=\s*+({_QUOTED})")
_SECONDS = re.compile(r"(\d{1,6}(?:\.\d{1,6})?|\.\d{1,6}) ?(ms|s)")
_ENTITY = re.compile(r"&(?:#(?:\d{1,8}|[xX][0-9a-fA-F]{1,7})|[A-Za-z][A-Za-z0-9]{0,31});")
_ENTITY_BEGUN = re.compile(r"&(?:#(?:\d{0,8}|[xX][0-9a-fA-F]{0,7})|[A-Za-z][A-Za-z0-9]{0,31})?\Z")


@dataclass(frozen=True, slots=True)
class Break:
    """A pause of `duration_ms` between two words."""

    duration_ms: int


Part = str | Break


class TagReader:
    """Remove tags from a text, and turn `<break>` into pauses.

    With `ssml`, every tag is removed and its content stays: `<phoneme>` is spoken as its text. The
    entities of XML and HTML are decoded; `<p>`, `<s>` and `<br>` end a sentence. A `<` or `&` that
    begins no tag or entity is text. Raises `InvalidRequest` for a DTD, a processing instruction,
    an unknown entity, an invalid `time`, a tag longer than 1,000 characters and
    more than 32 open elements; parts already returned stay valid.

    Without `ssml`, only `<break>` is a tag, as for ElevenLabs' models; the rest is text.

    Text that may still become a tag is held, up to 1,000 characters.
    """

    def __init__(self, *, ssml: bool) -> None:
        self._ssml = ssml
        self._mark = re.compile("[<&]" if ssml else "<")
        self._held = ""
        self._depth = 0

    def feed(self, delta: str) -> list[Part]:
        """Take the next delta; return the text and pauses that it completes."""
        text, self._held = self._held + delta, ""
        parts: list[Part] = []
        at = 0
        while found := self._mark.search(text, at):
            start = found.start()
            parts.append(text[at:start])
            read = self._entity if found[0] == "&" else self._tag
            end = read(text, start, parts.append)
            if end is None:
                self._hold(text[start:])
                at = len(text)
            else:
                at = end
        parts.append(text[at:])
        return [part for part in parts if part != ""]

    def finish(self) -> list[Part]:
        """Return the held text as the input ends; an unfinished tag is discarded."""
        held, self._held = self._held, ""
        discarded = (
            len(held) > 1 and held[0] == "<" and (self._ssml or held.lower().startswith(_BREAK))
        )
        return [] if discarded or not held else [held]

    def _hold(self, begun: str) -> None:
        if len(begun) > MAX_TAG_CHARS:
            raise _invalid(f"A tag is longer than {MAX_TAG_CHARS} characters.")
        self._held = begun

    def _tag(self, text: str, start: int, put: Callable[[Part], None]) -> int | None:
        """Read the markup at `<`; return its end, or None while that is not known."""
        if not self._ssml and not _may_be_break(text, start):
            put("<")
            return start + 1
        if text.startswith(("<!", "<?"), start):
            return _comment_end(text, start)
        tag = _TAG.match(text, start)
        if tag and (self._ssml or tag[2].lower() == "break"):
            self._element(tag, put)
            return tag.end()
        if tag is None and _TAG_BEGUN.match(text, start) and self._may_go_on(text, start):
            return None
        put("<")
        return start + 1

    def _may_go_on(self, text: str, start: int) -> bool:
        return self._ssml or len(text) - start <= MAX_TAG_CHARS

    def _element(self, tag: re.Match[str], put: Callable[[Part], None]) -> None:
        closes, name, rest = tag[1] == "/", tag[2].lower(), tag[3]
        if name == "break" and not closes:
            put(self._break(dict(_ATTRIBUTE.findall(rest)), tag[0]))
        elif name in _ENDING_TAGS:
            put("\n")
        if name in _UNPAIRED_TAGS or rest.endswith("/"):
            return
        self._depth = max(0, self._depth - 1) if closes else self._depth + 1
        if self._depth > MAX_DEPTH:
            raise _invalid(f"More than {MAX_DEPTH} elements are open.")

    def _break(self, attributes: dict[str, str], written: str) -> Part:
        time = attributes.get("time", "")[1:-1].strip()
        strength = attributes.get("strength", '"medium"')[1:-1]
        length = _SECONDS.fullmatch(time)
        if length:
            ms = float(length[1]) * (1 if length[2] == "ms" else 1_000)
            return Break(min(MAX_BREAK_MS, round(ms)))
        if "time" not in attributes and strength in _STRENGTHS_MS:
            return Break(_STRENGTHS_MS[strength])
        if self._ssml:
            raise _invalid('A break needs a time such as "1.5s" or "300ms".')
        return written

    def _entity(self, text: str, start: int, put: Callable[[Part], None]) -> int | None:
        entity = _ENTITY.match(text, start)
        if entity is None:
            if _ENTITY_BEGUN.match(text, start):
                return None
            put("&")
            return start + 1
        char = "'" if entity[0] == "&apos;" else html.unescape(entity[0])
        if char == entity[0] or char.endswith(";"):
            raise _invalid(f"The entity {entity[0]} is not known.")
        put(char)
        return entity.end()


def _may_be_break(text: str, start: int) -> bool:
    begun = text[start : start + len(_BREAK)].lower()
    return _BREAK.startswith(begun)


def _comment_end(text: str, start: int) -> int | None:
    begun = text[start : start + 4]
    if begun == "<!--":
        end = text.find("-->", start + 4)
        return None if end < 0 else end + 3
    if "<!--".startswith(begun):
        return None
    raise _invalid("SSML may hold neither a DTD nor a processing instruction.")


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="text")
