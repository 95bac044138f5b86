"""Tags are removed from text, for any division into deltas."""

# ruff: noqa: RUF001 -- a phoneme is written in letters that look like others

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.errors import InvalidRequest
from csm_trio.text.normalization.lexicon import words
from csm_trio.text.ssml import MAX_DEPTH, MAX_TAG_CHARS, Break, Part, TagReader

SSML = [
    ('One <break time="1.5s"/> two', ["One ", Break(1500), " two"]),
    ("One <break time='300ms' /> two", ["One ", Break(300), " two"]),
    ('<break time=".5s"></break>', [Break(500)]),
    ('<BREAK TIME="1s"/>', [Break(500)]),  # names of attributes have a case
    ('<break time="3.2s"/><break time="99s"/>', [Break(3000), Break(3000)]),
    ('<break/><break strength="x-strong"/><break strength="none"/>', [*map(Break, [500, 1000, 0])]),
    ("<speak>Hello</speak>", ["Hello"]),
    ('A <phoneme alphabet="ipa" ph="təˈmeɪtoʊ">tomato</phoneme>!', ["A tomato!"]),
    ('<phoneme ph="a>b" alphabet="x">c</phoneme>', ["c"]),
    ("<p>One</p><s>two</s>a<br/>b", ["\nOne\n\ntwo\na\nb"]),
    ('<prosody rate="slow">slow <emphasis>very</emphasis></prosody>', ["slow very"]),
    ("&lt;b&gt; &amp; &quot;q&quot; &apos;s&apos; &#65;&#x42;", ["<b> & \"q\" 's' AB"]),
    ("caf&eacute;&nbsp;x &#xD800;", ["café\xa0x \ufffd"]),
    ("AT&T, a & b, x &amp y", ["AT&T, a & b, x &amp y"]),
    ("5 < 6 <3 a<b >c", ["5 < 6 <3 a", "c"]),
    ("<!-- a < b -->c", ["c"]),
    ("a </b></b></b> b", ["a  b"]),
    ("ends in <bre", ["ends in "]),
    ("ends in &am", ["ends in &am"]),
    ("ends in <", ["ends in <"]),
]
PLAIN = [
    ('One <break time="1.5s"/> two', ["One ", Break(1500), " two"]),
    ("<break/>", [Break(500)]),
    ("<b>bold</b> &amp; <breakfast> <speak>", ["<b>bold</b> &amp; <breakfast> <speak>"]),
    ('<break time="soon"/> x', ['<break time="soon"/> x']),
    ("<!DOCTYPE html> <?php", ["<!DOCTYPE html> <?php"]),
    ("a <br", ["a <br"]),
    ("a <break time", ["a "]),
    ("<break " + "x" * 2000, ["<break " + "x" * 2000]),
]
REFUSED = [
    ('<!DOCTYPE x [<!ENTITY a "b">]>', "DTD"),
    ("<![CDATA[x]]>", "DTD"),
    ('<?xml version="1.0"?>', "processing instruction"),
    ("&xxe;", "entity &xxe;"),
    ('<break time="1 hour"/>', "break needs a time"),
    ('<break time="-1s"/>', "break needs a time"),
    ('<break strength="loud"/>', "break needs a time"),
    ("<a " + "x" * MAX_TAG_CHARS, "longer than"),
    ("<!--" + "x" * MAX_TAG_CHARS, "longer than"),
    ("<a>" * (MAX_DEPTH + 1), "elements are open"),
]


def joined(parts: list[Part]) -> list[Part]:
    """Return the parts with neighboring texts joined."""
    whole: list[Part] = []
    for part in parts:
        if whole and isinstance(part, str) and isinstance(whole[-1], str):
            whole[-1] += part
        else:
            whole.append(part)
    return whole


def read(text: str, *, ssml: bool, cuts: tuple[int, ...] = ()) -> list[Part]:
    reader = TagReader(ssml=ssml)
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    parts = [part for a, b in pairwise(bounds) for part in reader.feed(text[a:b])]
    return joined(parts + reader.finish())


@pytest.mark.parametrize(("text", "parts"), SSML)
@pytest.mark.parametrize("every", [1, 3, 10_000])
def test_tags_are_removed_and_their_content_stays(text: str, parts: list[Part], every: int) -> None:
    assert read(text, ssml=True, cuts=tuple(range(0, len(text), every))) == joined(parts)


@pytest.mark.parametrize(("text", "parts"), PLAIN)
@pytest.mark.parametrize("every", [1, 3, 10_000])
def test_without_ssml_only_break_is_a_tag(text: str, parts: list[Part], every: int) -> None:
    assert read(text, ssml=False, cuts=tuple(range(0, len(text), every))) == joined(parts)


@pytest.mark.parametrize(("text", "complaint"), REFUSED)
@pytest.mark.parametrize("every", [1, 10_000])
def test_invalid_ssml_is_rejected(text: str, complaint: str, every: int) -> None:
    with pytest.raises(InvalidRequest, match=complaint) as caught:
        read(text, ssml=True, cuts=tuple(range(0, len(text), every)))
    assert caught.value.param == "text"


FRAGMENTS = words("""
    <break time="1s"/> <break <b </b> <p> <!-- --> < > & &amp; &# ; " ' / = a 1 word <speak> &lt; <!
    time=".2s" <?
""")
TEXTS = st.lists(st.sampled_from([*FRAGMENTS, " "]) | st.characters(), max_size=20).map("".join)


@given(TEXTS, st.lists(st.integers(0, 60)), st.booleans())
def test_the_result_does_not_depend_on_the_deltas(text: str, cuts: list[int], ssml: bool) -> None:
    def outcome(*cuts: int) -> list[Part] | str:
        try:
            return read(text, ssml=ssml, cuts=cuts)
        except InvalidRequest as error:
            return error.message

    assert outcome(*cuts) == outcome()


@pytest.mark.parametrize("ssml", [True, False])
@pytest.mark.parametrize(
    "fragment", ["<", "&", "<!-", "<a", "<break ", "<a b='", '<a "', "&#1", "a<b "]
)
def test_hostile_repetition_is_read_or_rejected(fragment: str, ssml: bool) -> None:
    text = fragment * (100_000 // len(fragment))
    for every in (7, 100_000):
        try:
            parts = read(text, ssml=ssml, cuts=tuple(range(0, len(text), every)))
        except InvalidRequest:
            continue
        assert len(parts) <= len(text)
