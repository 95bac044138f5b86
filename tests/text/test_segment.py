"""Where sentences end, and at which character each is returned."""

# ruff: noqa: RUF001 -- marks that look like ASCII ones are what these tables are about

import pytest

from csm_trio.text.normalization.lexicon import ABBREVIATIONS, NUMBERED, STREETS, TITLES, UNITS
from csm_trio.text.segment import Segmenter

SENTENCES = [
    # plain stops
    ["Hello there.", "How are you?"],
    ["Stop!", "Who is there?", "It is me."],
    ["What?!", "No way!!", "Really???", "Yes."],
    ["One sentence with no stop"],
    ["It ends here.", "then it goes on in lower case"],
    # abbreviations
    ["Dr. Smith will see you.", "Please wait."],
    ["Mr. and Mrs. Jones are here.", "So is Prof. Lee."],
    ["Bring fruit, e.g. apples.", "Or i.e. pears."],
    ["Apples, pears, etc.", "The rest is gone."],
    ["Apples, etc. are gone.", "Go."],
    ["Smith vs. Jones was first.", "Roe v. Wade was next."],
    ["It takes approx. 5 minutes.", "Hold on."],
    ["This is Acme Inc.", "We sell anvils."],
    ["Acme Inc. Sales is closed.", "Try again."],
    ["Martin Luther King Jr. Day is a holiday.", "We are closed."],
    ["He lives on Main St.", "Then he moved."],
    ["St. Louis is nice.", "St. Paul is too."],
    ["She has a Ph.D. in music.", "And an M.D. too."],
    ["Meet on Jan. 5 or on Fri. 8 Mar. at noon.", "Bye."],
    ["He sat.", "The sun rose.", "Come in.", "Just a min."],
    # countries, times, numbers
    ["The U.S. Army is here.", "I live in the U.S.", "The end."],
    ["See you at 5 p.m.", "Then we eat."],
    ["See you at 5 p.m. on Monday.", "Fine."],
    ["It closes at 5 p.m. Monday to Friday.", "It opens at 9 a.m.", "Sarah knows."],
    ["It closes at 6 p.m. Eastern.", "Call then."],
    ["No. 5 is alive.", "See no. 7 and Nos. 8 to 9."],
    ["No.", "I will not."],
    ["No.", "Absolutely not."],
    ["He said no.", "She said yes."],
    ["It is No. #5 there.", "Good."],
    ["It weighs 3.5 kilos.", "Heavy."],
    ["Is it 3.14?", "Yes."],
    ["That is $3.50.", "Anything else?"],
    ["It was 1999.", "Then came 2000."],
    ["Version 2.0.1 is out.", "Get v2.0.1.", "Now."],
    ["It is 5:30.", "You owe 1,250.75."],
    ["1. Open the door.", "2. Close it.", "(3) Leave."],
    ["Q. Who is there?", "A. Nobody."],
    # initials
    ["J. R. R. Tolkien wrote it.", "I read it."],
    ["Ask John F. Kennedy.", "He knows."],
    ["Vitamin C.", "It helps."],
    ["Ask J. I. Smith or J.K. Rowling.", "So do I.", "We all do."],
    # addresses
    ["Mail me at a.b@example.co.uk.", "Thanks."],
    ["Visit www.example.com/a?b=c&d=e.f.", "Then call."],
    ["See https://example.com/?q=1.", "It works."],
    ["Run main.py in Node.js.", "It starts."],
    ["So?yes is one word.", "so.does this"],
    # ellipses
    ["Wait... what was that?", "Hm."],
    ["I mean...", "Yes."],
    ["Well… maybe.", "Well…", "Sure."],
    ["I . . . think so.", "Yes...no."],
    ["... and then he left.", "Gone."],
    # quotes, brackets, marks
    ['"Really?" she asked.', '"Yes!"', "He left."],
    ["He said “Go.”", "Then he went."],
    ["It is (he said) over.", "(It is.)", "Good."],
    ["Is it ok (is it?) to go?", "Yes."],
    ['He said "Go".', "She went."],
    ["‘Stop.’", "‘Why?’"],
    ["**Hello there.**", "*Now.*", "`Code.`", "End."],
    ["Apples, etc.", "(See below.)"],
    # emoji and fragments
    ["Great!🙂", "Next one.", "🙂 How?"],
    ["Hi.", "— Then *** you.", "Bye."],
    ["👍🏽 Done!👍🏽", "Fine."],
]

UNSPACED = [
    # glued sentences
    ("right?Great!Then go", ["right?", "Great!", "Then go"]),
    ("Here it is for you.Your order", ["Here it is for you.", "Your order"]),
    ("Yes.No", ["Yes.", "No"]),
    ("It is $5.20.Anything else?", ["It is $5.20.", "Anything else?"]),
    ('"Yes."She left.', ['"Yes."', "She left."]),
    ('She said yes."Then go."', ['She said yes."Then go."']),
    ("Hi.Thanks.Now go", ["Hi.", "Thanks.", "Now go"]),
    ("It is $5.Your card", ["It is $5.", "Your card"]),
    ("Is it 5?Then go", ["Is it 5?", "Then go"]),
    ("It is done.I checked.It's fine", ["It is done.", "I checked.", "It's fine"]),
    ("He said (so).Then he left", ["He said (so).", "Then he left"]),
    ("**Done.**Next", ["**Done.**", "Next"]),
    ("Done!**Next** one", ["Done!**", "Next** one"]),
    ("Sure!OK, wait", ["Sure!", "OK, wait"]),
    ("in the USA.They left", ["in the USA.", "They left"]),
    ("at 5 p.m.Then we eat", ["at 5 p.m.", "Then we eat"]),
    ("Acme Inc.The firm", ["Acme Inc.", "The firm"]),
    ("I see.\u200bThen", ["I see.\u200bThen"]),
    # names, code and addresses are not
    ("It is 3.5 or 3.A now", ["It is 3.5 or 3.A now"]),
    ("The U.S.A. or e.g.x or file.txt", ["The U.S.A. or e.g.x or file.txt"]),
    ("Try joes.pizza or file.TXT", ["Try joes.pizza or file.TXT"]),
    ("https://x.com/a.Then?B=c!Do this", ["https://x.com/a.Then?B=c!Do this"]),
    ("Booking.Com and ACME.COM.", ["Booking.Com and ACME.COM."]),
    ("Dr.Smith, St.Louis and J.Crew", ["Dr.Smith, St.Louis and J.Crew"]),
    ("Use System.Text.Json or Math.Max(1)", ["Use System.Text.Json or Math.Max(1)"]),
    ("Mail a.Smith@b.org or you.Your@b.org", ["Mail a.Smith@b.org or you.Your@b.org"]),
    ("Ph.D. and ASP.NET and Node.js", ["Ph.D. and ASP.NET and Node.js"]),
    ("No.Five", ["No.Five"]),
    # abbreviations of the lexicon
    ("It is 5 min. from now. Bye", ["It is 5 min. from now.", "Bye"]),
    ("We ship to Bldg. 7 on Rte. 66.", ["We ship to Bldg. 7 on Rte. 66."]),
    ("It has 500 sq. ft. of space.", ["It has 500 sq. ft. of space."]),
    ("Add 2 tsp. of it, 8 fl. oz. of milk.", ["Add 2 tsp. of it, 8 fl. oz. of milk."]),
    ("It holds max. 5 people, incl. staff.", ["It holds max. 5 people, incl. staff."]),
    ("It is 5 ft. 4 in. tall.", ["It is 5 ft. 4 in. tall."]),
    ("Go to Apt. A or Bldg. B. It is near.", ["Go to Apt. A or Bldg. B.", "It is near."]),
    ("A fee of Rs. 500 or Rs. A.", ["A fee of Rs. 500 or Rs. A."]),
    ("Come in. the end", ["Come in.", "the end"]),
    ("Wait 5 min. Then come in. Sit", ["Wait 5 min.", "Then come in.", "Sit"]),
    ("你好。世界！你好吗？好", ["你好。", "世界！", "你好吗？", "好"]),
    ("「好。」他说。", ["「好。」", "他说。"]),
    ("你好!世界?好", ["你好!", "世界?", "好"]),
    ("He wrote 你好。Then he left.", ["He wrote 你好。", "Then he left."]),
    ("真的？！是。", ["真的？！", "是。"]),
    ("Title\nText goes on\n\nNew one", ["Title", "Text goes on", "New one"]),
    ("Choose:\n- one\n- two.\n* three", ["Choose:", "- one", "- two.", "* three"]),
    ("a\r\nb\rc\u2028d", ["a", "b", "c", "d"]),
    ("Dr.\nSmith", ["Dr.", "Smith"]),
    ("We close at 5 p.m.\nThen", ["We close at 5 p.m.", "Then"]),
    ("***\nText\n---\nMore", ["***\nText", "---\nMore"]),
    ("Two  spaces.   Three.", ["Two  spaces.", "Three."]),
    ("No break.\xa0Space.", ["No break.", "Space."]),
    ("  \n  ", []),
    ("", []),
    ("...", ["..."]),
    ("Hi. 🙂", ["Hi.", "🙂"]),
    ("I saw the U.S. The", ["I saw the U.S.", "The"]),
    ("Then at 5 p.m. Th", ["Then at 5 p.m.", "Th"]),
]

DEPARTURES = [
    # the space after the stop is enough
    ("Hello there. How", [("Hello there.", 12), ("How", 16)]),
    ("Hi! You", [("Hi!", 3), ("You", 7)]),
    ("Who? Me", [("Who?", 4), ("Me", 7)]),
    ("It is $3.50. Ok", [("It is $3.50.", 12), ("Ok", 15)]),
    ("Is it 3.14? Y", [("Is it 3.14?", 11), ("Y", 13)]),
    ("Mail a@b.org. X", [("Mail a@b.org.", 13), ("X", 15)]),
    ("So?! Ok", [("So?!", 4), ("Ok", 7)]),
    # a newline needs nothing after it
    ("Hello\nyou", [("Hello", 5), ("you", 9)]),
    ("Hello.\nyou", [("Hello.", 6), ("you", 10)]),
    # a wide stop needs one character
    ("好。吗", [("好。", 2), ("吗", 3)]),
    # a closing quote or an ellipsis needs the next letter
    ('"Go." He', [('"Go."', 6), ("He", 8)]),
    ("Hm... He", [("Hm...", 6), ("He", 8)]),
    ("Hm... he", [("Hm... he", 8)]),
    # so does "No."
    ("No. I am", [("No.", 4), ("I am", 8)]),
    # an abbreviation or initial that can end a sentence needs the next word
    ("To the U.S. He is", [("To the U.S.", 14), ("He is", 17)]),
    ("At 5 p.m. Bob is", [("At 5 p.m.", 13), ("Bob is", 16)]),
    ("Plan B. It is", [("Plan B.", 10), ("It is", 13)]),
    ("Dr. He. No", [("Dr. He.", 7), ("No", 10)]),
    # no end in sight: the character that is one too many
    ("x" * 281, [("x" * 280, 280), ("x", 281)]),
]


def segment(text: str, max_chars: int = 280) -> list[str]:
    segmenter = Segmenter(max_chars)
    return segmenter.feed(text) + segmenter.flush()


@pytest.mark.parametrize("sentences", SENTENCES, ids=lambda sentences: sentences[0])
def test_spaced_sentences_are_found_again(sentences: list[str]) -> None:
    assert segment(" ".join(sentences)) == sentences


@pytest.mark.parametrize(("text", "sentences"), UNSPACED)
def test_sentences_that_are_not_separated_by_one_space(text: str, sentences: list[str]) -> None:
    assert segment(text) == sentences


@pytest.mark.parametrize(("text", "departures"), DEPARTURES)
def test_each_sentence_is_returned_at_its_first_certain_character(
    text: str, departures: list[tuple[str, int]]
) -> None:
    segmenter = Segmenter()
    left = [(sentence, at) for at, char in enumerate(text) for sentence in segmenter.feed(char)]
    left += [(sentence, len(text)) for sentence in segmenter.flush()]
    assert left == departures


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        # the last clause, though words follow it
        (
            "aaaa bbbb, cccc dddd; eeee ffff gggg hhhh",
            ["aaaa bbbb, cccc dddd;", "eeee ffff gggg hhhh"],
        ),
        ("aaaa bbbb — cccc dddd eeee ffff gggg hh", ["aaaa bbbb —", "cccc dddd eeee ffff gggg hh"]),
        ("aaaa bbbb—cccc dddd eeee ffff gggg hh", ["aaaa bbbb—", "cccc dddd eeee ffff gggg hh"]),
        ("aaaa bbbb - cccc dddd eeee ffff gggg hh", ["aaaa bbbb -", "cccc dddd eeee ffff gggg hh"]),
        ("aaaa 3,500 bbbb cccc dddd eeee ffff", ["aaaa 3,500 bbbb cccc dddd eeee", "ffff"]),
        ("aaaa bbbb cccc dddd eeee ffff gg—hh", ["aaaa bbbb cccc dddd eeee ffff", "gg—hh"]),
        ('aa "bbbb cccc," dddd eeee ffff gggg', ['aa "bbbb cccc,"', "dddd eeee ffff gggg"]),
        # no clause: the last whitespace
        ("aaaa bbbb cccc dddd eeee ffff gggg", ["aaaa bbbb cccc dddd eeee ffff", "gggg"]),
        # a clause too short to stand alone counts as whitespace
        ("Yes, bbbb cccc dddd eeee ffff gggg", ["Yes, bbbb cccc dddd eeee ffff", "gggg"]),
        # no parting of a title from its name
        ("aaaa bbbb cccc dddd eeee Dr. Smithson", ["aaaa bbbb cccc dddd eeee", "Dr. Smithson"]),
        # no whitespace: anywhere, but between a letter and its marks
        ("x" * 70, ["x" * 32, "x" * 32, "x" * 6]),
        ("x" * 31 + "e\u0301" + "y", ["x" * 31, "e\u0301y"]),
        ("x" * 31 + "👨\u200d👩" + "y", ["x" * 31, "👨\u200d👩y"]),
    ],
)
def test_text_with_no_end_is_cut_at_a_clause_then_a_word_then_anywhere(
    text: str, sentences: list[str]
) -> None:
    assert segment(text, 32) == sentences


def test_a_too_small_max_chars_is_rejected() -> None:
    with pytest.raises(ValueError, match="at least 16, not 15"):
        Segmenter(15)


def test_pending_chars_counts_the_held_characters() -> None:
    segmenter = Segmenter()
    assert segmenter.feed("  Hello the") == []
    assert segmenter.pending_chars == 9
    assert segmenter.feed("re. W") == ["Hello there."]
    assert segmenter.pending_chars == 1
    assert segmenter.flush() == ["W"]
    assert segmenter.pending_chars == 0


def test_after_a_flush_the_next_text_starts_afresh() -> None:
    segmenter = Segmenter()
    assert [*segmenter.feed("Ask Dr"), *segmenter.flush()] == ["Ask Dr"]
    assert [*segmenter.feed(". Smith. Ok"), *segmenter.flush()] == [". Smith.", "Ok"]
    assert segmenter.flush() == []


WORDS = "word and another " * 60  # no stop, no clause


def test_each_of_the_first_sentences_has_a_length_of_its_own() -> None:
    segmenter = Segmenter(chunk_lengths=(50, 80, 120))
    lengths = [len(one) for one in segmenter.feed(WORDS)]
    assert lengths[0] <= 50 < lengths[1] <= 80 < lengths[2] <= 120
    assert all(100 <= length <= 120 for length in lengths[2:])


def test_a_scheduled_length_cuts_at_a_clause_where_there_is_one() -> None:
    segmenter = Segmenter(chunk_lengths=(50,))
    text = "If nobody is at home today, leave the parcel beside the blue door"
    assert segmenter.feed(text)[0] == "If nobody is at home today,"


def test_a_schedule_does_not_hold_back_a_sentence_that_has_ended() -> None:
    segmenter = Segmenter(chunk_lengths=(120, 160))
    assert segmenter.feed("Yes. Fine. ") == ["Yes.", "Fine."]


def test_a_scheduled_length_below_the_minimum_is_rejected() -> None:
    with pytest.raises(ValueError, match="15"):
        Segmenter(chunk_lengths=(120, 15))


KEPT = [
    (
        "I moved your visit to January 5, 2027 so that you can come with your family",
        "January 5, 2027",
    ),
    ("We will see you there on Monday, January 5 or on the day after it", "Monday, January 5"),
    ("It was signed in town on the day of 5 January 2027 by all of them", "5 January 2027"),
    ("We can meet near San Jose, CA or if you prefer another town then tell me", "San Jose, CA"),
    ("We can meet in Springfield, Illinois or in a town of yours", "Springfield, Illinois"),
    ("Please tell me when you would like to meet Dr. Anna Smith about this", "Dr. Anna Smith"),
    ("Please tell me if you would like to meet Anna Maria Smith about this", "Anna Maria Smith"),
    (
        "You can send the parcel to 12 Oak Street, Apt. 4, San Jose, CA 95112 before the end",
        "12 Oak Street, Apt. 4, San Jose, CA 95112",
    ),
    ("The number that you need is (555) 123-4567, ext. 42 at any time", "(555) 123-4567, ext. 42"),
    ("The number that you need is +44 20 7946 0958 at any time of day", "+44 20 7946 0958"),
    ("The total that you have to pay is 3 million dollars if you like", "3 million dollars"),
    ("The total that you have to pay is some $3.5 million if you like", "$3.5 million"),
    ("The whole way there and back is 5 to 10 km long if you walk it", "5 to 10 km"),
    ("The call that you asked for begins at 5 p.m. EST if you like it", "5 p.m. EST"),
    ("The bus that you take to get to them is the No. 5 at the corner", "No. 5"),
]


@pytest.mark.parametrize(("text", "kept"), KEPT, ids=lambda value: value[:24])
def test_a_cut_is_never_within_an_expression(text: str, kept: str) -> None:
    for max_chars in range(48, len(text)):
        assert [one for one in segment(text, max_chars) if kept in one], max_chars


def test_a_cut_without_a_clause_is_between_phrases() -> None:
    text = "the quick brown fox is jumping over the lazy dog that is sleeping on the warm mat"
    assert segment(text, 60) == [
        "the quick brown fox is jumping over the lazy dog",
        "that is sleeping on the warm mat",
    ]
    assert segment("we hope that the parcel of the week is in good shape", 32) == [
        "we hope that the parcel",
        "of the week is in good shape",
    ]


@pytest.mark.parametrize("word", sorted(ABBREVIATIONS.keys() | TITLES.keys() | STREETS.keys()))
def test_no_sentence_ends_at_an_abbreviation_of_the_lexicon(word: str) -> None:
    assert segment(f"It is 5 {word}. and more") == [f"It is 5 {word}. and more"]
    assert segment(f"It is {word}. 5 and more") == [f"It is {word}. 5 and more"]


@pytest.mark.parametrize("word", sorted(NUMBERED))
def test_no_sentence_ends_between_a_noun_and_its_number(word: str) -> None:
    assert segment(f"It is at {word}. 5 and more") == [f"It is at {word}. 5 and more"]


@pytest.mark.parametrize("unit", sorted(unit for unit in UNITS if unit.isalpha() and len(unit) < 6))
def test_no_sentence_ends_at_a_unit_before_lower_case(unit: str) -> None:
    for number in ("5 ", "5", "½ ", "500 sq. "):
        assert segment(f"It is {number}{unit}. of it") == [f"It is {number}{unit}. of it"]
