"""Segmenter: split text deltas into sentences, each as soon as its end is certain.

The module must not know voices, or where the boundaries between deltas were.
"""

# ruff: noqa: RUF001 -- marks that look like ASCII ones are what these tables are about

import enum
import re
import unicodedata
from collections.abc import Sequence

_TRIGGER_CHARS = 50  # ElevenLabs' documented minimum buffer for `try_trigger_generation`
_TRIGGER_CLAUSE_CHARS = 20
_MIN_MAX_CHARS = 16
_LONGEST_WORD_CHARS = 12  # longest entry of any word list below

_NEWLINES = frozenset("\n\r\v\f\x85\u2028\u2029")
_WIDE_STOPS = frozenset("。！？｡")
_DOTS = frozenset(".…")
_STOPS = frozenset("!?‽؟۔।") | _DOTS | _WIDE_STOPS
_CLOSERS = frozenset("\"')]}”’»›*_`~）］｝」』】》〉＂")
_CLOSER_CATEGORIES = frozenset({"So", "Sk", "Cf", "Mn", "Me"})  # emoji, joiners, selectors
_OPENERS = frozenset("\"'([{“‘«‹*_`¿¡（［｛「『【《〈")
_CONTINUING = frozenset(",;:-–—/&+=%)]}") | _STOPS
_WORD_BREAKS = frozenset("\"'([{“‘«*_`/-–—#&,")
_CLAUSE_MARKS = frozenset(",;:–")  # a boundary where whitespace follows
_WIDE_CLAUSE_MARKS = frozenset("—，、；：")  # a boundary whatever follows


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Without their last stop. Case matters: "Sat." is a day, "sat." ends a sentence.
_JOINING_WORDS = _words("""
    Mr Mrs Ms Mx Dr Drs Prof Rev Hon Fr Gen Col Maj Capt Cmdr Lt Sgt Cpl Pvt Gov Sen Rep Pres Supt
    Messrs Mme Mlle Mt Ft vs v cf viz c ca approx Approx e.g i.e E.g I.e eg ie
""")
_NUMBER_WORDS = _words("No Nos no nos")
_ENDING_WORDS = _words("a.m p.m A.M P.M etc")
_AMBIGUOUS_WORDS = _words("""
    St Ste Ave Blvd Rd Ln Hwy Pkwy Sq Apt Rm Inc Ltd Corp Co Cos LLC Bros Jr Sr Esq Dept Univ Assn
    Assoc Intl Natl Govt dept al est Est ft lb lbs oz hr hrs misc Misc p pp Fig Figs fig figs Vol
    Vols vol Ch Sec Eq Art Ext ext Tel tel Mon Tue Tues Wed Thu Thur Thurs Fri Sat Sun Jan Feb Mar
    Apr Jun Jul Aug Sep Sept Oct Nov Dec
""")
_AFTER_TIME_WORDS = _words("""
    Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April May June
    July August September October November December Eastern Central Mountain Pacific Atlantic
    ET CT MT PT EST EDT CST CDT MST MDT PST PDT GMT UTC BST CET CEST
""")
_STARTING_WORDS = _words("""
    The A An This That These Those There Here It He She We You They I My Your His Her Our Their Its
    If When While Where Who What Why How Which Then But And Or So Because Since After Before
    Although However Also Just Please Let Yes No Not Now Once Still In On At For From With To As By
    Is Are Was Were Do Does Did Can Could Would Should Have Has Had Thank Thanks Sorry Maybe
    Perhaps Meanwhile Next Finally Later Today Tomorrow Yesterday Everyone Nobody Some Many Most
    All Each Both Okay OK Sure Well Hello Hi
""")
_DOTTED = re.compile(r"(?:[^\W\d_]{1,2}\.)+[^\W\d_]{1,2}")  # U.S, Ph.D
_LIST_NUMBER = re.compile(r"[\W_]*(?:\d{1,3}|[^\W\d_])")


class _Phase(enum.Enum):
    TEXT = enum.auto()  # no candidate stop
    STOP = enum.auto()  # within stops and the closing marks after them
    GAP = enum.auto()  # in the whitespace after an ambiguous stop
    WORD = enum.auto()  # within the word after that whitespace


class _Rule(enum.Enum):
    """Condition under which a stop followed by whitespace ends a sentence."""

    FREE = enum.auto()  # nothing
    CASE = enum.auto()  # no lower case after it: ellipses, closing quotes and brackets
    ENDING = (
        enum.auto()
    )  # a capitalized word after it other than a day, month or time zone: "p.m.", "etc."
    NUMBER = enum.auto()  # a capital, and no digit, after it: "No."
    STARTER = enum.auto()  # a word after it that begins sentences: "Inc.", "U.S.", initials
    JOIN = enum.auto()  # never: "Dr."


class Segmenter:
    """Split a stream of text into sentences while it arrives.

    The sentences do not depend on how the text was divided into deltas, so long as `trigger` is
    not called. Each is returned at the first character that makes its end certain: the
    whitespace after the stop; or, after an abbreviation, an initial, an ellipsis or a closing
    quote, the next letter or the end of the next word. A newline ends a sentence, a list number
    begins one, and stops with no whitespace after them (`3.5`, `example.com`, `Yes.No`) end
    nothing, except the wide ones of Chinese and Japanese. More than `max_chars` without an end are
    cut at the last clause, else at the last whitespace that touches no digit ("$3 million", "(555)
    123-4567"), else at any, else anywhere. `chunk_lengths` are the `max_chars` of the first
    sentences; the last of them holds for all further ones.

    Sentences come stripped and never empty, and together hold every character but whitespace. A
    fragment with no letter or digit ("—", "...", "🙂") is held until the text it precedes; it
    is returned alone only when the stream ends or more than `max_chars` of it wait, and `normalize`
    then makes it "".

    Memory is bounded by `max_chars`, and each character is examined a bounded number of times.
    Raises `ValueError` for a length below 16.
    """

    def __init__(self, max_chars: int = 280, *, chunk_lengths: Sequence[int] = ()) -> None:
        lengths = list(chunk_lengths) or [max_chars]
        if min(lengths) < _MIN_MAX_CHARS:
            raise ValueError(f"max_chars must be at least {_MIN_MAX_CHARS}, not {min(lengths)}")
        self._max_chars, *self._next_lengths = lengths
        self._ready: list[str] = []
        self._started = False
        self._begin()

    def _begin(self) -> None:
        self._held: list[str] = []  # one character each; the first is no whitespace
        self._phase = _Phase.TEXT
        self._rule = _Rule.FREE
        self._stop_at = 0  # index of the first candidate stop
        self._cut_at = 0  # end of the sentence, if that stop ends it
        self._next_word = ""
        self._speakable = False
        self._clause_at = self._word_space_at = self._space_at = 0  # possible cuts; 0: none
        self._open_space_at = 0  # candidate word space, unless a digit follows; 0: none

    @property
    def pending_chars(self) -> int:
        """Number of characters held back."""
        return len(self._held)

    def feed(self, delta: str) -> list[str]:
        """Take the next delta; return the sentences that it completes."""
        for char in delta:
            self._advance(char)
        return self._take()

    def flush(self) -> list[str]:
        """Return all held text, as if it ended here."""
        self._advance("\n")
        if self._held:
            self._cut(len(self._held))
        return self._take()

    def trigger(self) -> list[str]:
        """Return what can be generated now, for ElevenLabs' `try_trigger_generation`.

        That is all held text if it ends in a stop that is no abbreviation, initial or incomplete
        decimal. Else, if no sentence has been returned yet and at least 50 characters are held, it
        is the text before the last clause boundary. The official Python SDK triggers with every
        word, so a trigger never cuts at a mere space.
        """
        if self._stands_alone():
            self._cut(len(self._held))
        elif (
            not self._started
            and len(self._held) >= _TRIGGER_CHARS
            and self._clause_at >= _TRIGGER_CLAUSE_CHARS
        ):
            self._cut(self._clause_at)
        return self._take()

    def _take(self) -> list[str]:
        ready, self._ready = self._ready, []
        return ready

    def _advance(self, char: str) -> None:
        if not self._held and char.isspace():
            return
        if self._open_space_at and not char.isspace():
            if not char.isdigit():
                self._word_space_at = self._open_space_at
            self._open_space_at = 0
        self._held.append(char)
        if char.isalnum():
            self._speakable = True
        elif self._speakable:
            self._note_cut_points(char)
        if char in _NEWLINES:
            self._end_line(char)
            return
        if self._phase is not _Phase.TEXT and self._settle(char):
            return
        if self._phase is _Phase.TEXT and self._speakable and char in _STOPS:
            self._phase = _Phase.STOP
            self._stop_at = len(self._held) - 1
            self._cut_at = len(self._held)
        if len(self._held) > self._max_chars:
            self._cut_long()

    def _note_cut_points(self, char: str) -> None:
        held, at = self._held, len(self._held) - 1
        if char in _WIDE_CLAUSE_MARKS and at < self._max_chars:
            self._clause_at = at + 1
        elif char.isspace():
            self._space_at = at
            before = at - 2 if held[at - 1] in _CLOSERS else at - 1
            if self._phase is _Phase.TEXT and not held[before].isdigit():
                self._open_space_at = at
            if held[before] in _CLAUSE_MARKS or (
                held[before] == "-" and before > 0 and held[before - 1].isspace()
            ):
                self._clause_at = at

    def _end_line(self, newline: str) -> None:
        if self._phase is _Phase.WORD and self._settle(newline):
            return
        if self._speakable:
            self._cut(len(self._held) - 1)
        elif len(self._held) > self._max_chars:
            self._cut_long()

    def _settle(self, char: str) -> bool:
        """Advance the candidate stop by one character; return whether it ended a sentence."""
        if self._phase is _Phase.STOP:
            ends = self._judge_stop(char)
        elif self._phase is _Phase.GAP:
            ends = self._judge_gap(char)
        elif char.isalpha() and len(self._next_word) <= _LONGEST_WORD_CHARS:
            self._next_word += char
            return False
        else:
            ends = _begins_sentence(self._next_word, char, rule=self._rule)
        if ends is None:
            return False
        if ends:
            self._cut(self._cut_at)
        else:
            self._phase = _Phase.TEXT
        return ends

    def _judge_stop(self, char: str) -> bool | None:
        if char in _STOPS or _closes(char):
            self._cut_at = len(self._held)
            return None
        marks = self._held[self._stop_at : self._cut_at]
        if any(mark in _WIDE_STOPS for mark in marks):
            return True
        if not char.isspace():
            return "\u2e80" <= char <= "\ua4cf" and marks[0] in "!?"
        self._rule = _classify(self._held, self._stop_at, cut_at=self._cut_at)
        if self._rule in (_Rule.FREE, _Rule.JOIN):
            return self._rule is _Rule.FREE
        self._phase = _Phase.GAP
        return None

    def _judge_gap(self, char: str) -> bool | None:
        if char.isspace() or char in _OPENERS:
            return None
        if char.islower() or char in _CONTINUING:
            return False
        if self._rule is _Rule.CASE:
            return True
        if self._rule is _Rule.NUMBER:
            return not (char.isdigit() or char == "#")
        if not char.isalpha():
            return False
        self._phase = _Phase.WORD
        self._next_word = char
        return None

    def _stands_alone(self) -> bool:
        if self._phase is _Phase.GAP:
            after = self._held[self._cut_at :]
            return self._rule is _Rule.CASE and all(char.isspace() for char in after)
        if self._phase is not _Phase.STOP:
            return False
        marks = self._held[self._stop_at : self._cut_at]
        if marks == ["."] and self._held[self._stop_at - 1].isdigit():
            return False
        rule = _classify(self._held, self._stop_at, cut_at=self._cut_at)
        return rule in (_Rule.FREE, _Rule.CASE)

    def _cut(self, at: int) -> None:
        """Emit the first `at` characters; process the rest again as the start of a text."""
        held = self._held
        self._ready.append("".join(held[:at]).strip())
        self._started = True
        if self._next_lengths:
            self._max_chars = self._next_lengths.pop(0)
        self._begin()
        # Bounded: either the rest follows one stop (at most opening marks and a word), and
        # no later stop lies before it; or `_cut_long` took the last boundary of its kind.
        for char in held[at:]:
            self._advance(char)

    def _cut_long(self) -> None:
        if self._clause_at >= self._max_chars // 4:
            self._cut(self._clause_at)
        elif self._word_space_at >= self._max_chars // 2:
            self._cut(self._word_space_at)
        else:
            self._cut(self._space_at or _hard_cut(self._held, self._max_chars))


def _closes(char: str) -> bool:
    return char in _CLOSERS or unicodedata.category(char) in _CLOSER_CATEGORIES


def _classify(held: Sequence[str], stop_at: int, *, cut_at: int) -> _Rule:
    """Return the rule of the stops, and closing marks, `held[stop_at:cut_at]`."""
    stops = [mark for mark in held[stop_at:cut_at] if mark in _STOPS]
    closed = len(stops) < cut_at - stop_at
    if stops == ["."]:
        rule = _word_rule(held, stop_at)
    elif all(stop in _DOTS for stop in stops):
        rule = _Rule.CASE
    else:
        rule = _Rule.FREE
    return _Rule.CASE if closed and rule is _Rule.FREE else rule


def _word_rule(held: Sequence[str], stop_at: int) -> _Rule:
    """Return the rule of a single full stop, from the word before it."""
    start = stop_at
    while start > 0 and stop_at - start <= _LONGEST_WORD_CHARS and _in_word(held[start - 1]):
        start -= 1
    word = "".join(held[start:stop_at])
    if not word:
        return _Rule.CASE  # the stops of ". . ."
    if word in _JOINING_WORDS:
        return _Rule.JOIN
    if stop_at <= _LONGEST_WORD_CHARS and _LIST_NUMBER.fullmatch("".join(held[:stop_at])):
        return _Rule.JOIN
    if word in _NUMBER_WORDS:
        return _Rule.NUMBER
    if word in _ENDING_WORDS:
        return _Rule.ENDING
    initial = len(word) == 1 and word.isupper()
    ambiguous = initial or word in _AMBIGUOUS_WORDS or _DOTTED.fullmatch(word) is not None
    return _Rule.STARTER if ambiguous else _Rule.FREE


def _in_word(char: str) -> bool:
    return not char.isspace() and char not in _WORD_BREAKS


def _begins_sentence(word: str, following: str, *, rule: _Rule) -> bool:
    if rule is _Rule.ENDING:
        return word not in _AFTER_TIME_WORDS
    initial = len(word) == 1 and following == "."
    return word in _STARTING_WORDS and not initial


def _hard_cut(held: Sequence[str], max_chars: int) -> int:
    """Return the last index up to `max_chars` that splits no combining sequence."""
    for at in range(max_chars, max_chars - _MIN_MAX_CHARS, -1):
        if not _inseparable(held[at - 1], held[at]):
            return at
    return max_chars


def _inseparable(left: str, right: str) -> bool:
    surrogates = "\ud800" <= left <= "\udbff" and "\udc00" <= right <= "\udfff"
    return surrogates or "\u200d" in (left, right) or unicodedata.category(right)[0] == "M"
