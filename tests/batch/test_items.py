"""The input of a batch: four kinds of it, their fields, and what is wrong with bad ones."""

import pytest

from csm_trio.audio.formats import AudioFormat
from csm_trio.batch.item import BadInput, Item
from csm_trio.batch.items import InputKind, ItemDefaults, input_kind, read_items

WAV = AudioFormat.parse("wav_24000")
DEFAULTS = ItemDefaults("default", WAV)


def read(text: str, kind: InputKind = "text", template: str = "{index:05}") -> list[Item]:
    return read_items(text.encode(), kind, ItemDefaults("default", WAV, name_template=template))


def test_each_line_with_text_is_an_item() -> None:
    items = read("\ufeffHello.\r\n\n  Good morning.  \n")
    assert [(item.index, item.line, item.text, item.file) for item in items] == [
        (1, 1, "Hello.", "00001.wav"),
        (2, 3, "Good morning.", "00002.wav"),
    ]


CSV = """text,voice,format,seed,speed,name,pause_s,chapter,scene
"Hello, you.",vera,mp3_44100_64,7,1.1,hello,2,One,opening
Bye.,,,,,,,,end
"""


def test_a_row_has_its_own_voice_format_seed_speed_and_name() -> None:
    hello, bye = read(CSV, "csv")
    assert (hello.text, hello.voice_id, hello.audio_format.name) == (
        "Hello, you.",
        "vera",
        "mp3_44100_64",
    )
    assert (hello.settings, hello.speed, hello.pause_s) == ({"seed": 7}, 1.1, 2.0)
    assert (hello.file, hello.chapter) == ("hello.mp3", "One")
    assert (bye.voice_id, bye.audio_format, bye.settings, bye.file) == (
        "default",
        WAV,
        {},
        "00002.wav",
    )


def test_an_object_has_its_own_fields() -> None:
    (item,) = read('{"text": "Hi.", "top_k": 3, "temperature": 0.5, "speed": 0.8}', "jsonl")
    assert (item.settings, item.speed) == ({"top_k": 3, "temperature": 0.5}, 0.8)


def test_columns_of_the_input_can_name_files() -> None:
    names = [item.file for item in read(CSV, "csv", "{scene}-{slug}-{line}")]
    assert names == ["hello.mp3", "end-bye-3.wav"]


SRT = """1
00:00:01,000 --> 00:00:02,500
<i>Good</i>
morning.

2
00:01:00.500 --> 00:01:02.000
{\\an8}Good night.

3
01:00:00,000 --> 01:00:01,000

"""


def test_subtitles_have_their_times_and_no_markup() -> None:
    first, second = read(SRT, "srt")
    assert (first.text, first.start_s, first.window_s) == ("Good morning.", 1.0, 59.5)
    assert (second.text, second.start_s, second.window_s) == ("Good night.", 60.5, None)
    assert "seed" in first.settings


@pytest.mark.parametrize(
    ("natural_s", "speed"), [(1.0, 1.0), (2.0, 1.0), (2.1, 1.05), (2.2001, 1.11), (3.0, 1.2)]
)
def test_a_subtitle_is_sped_up_as_little_as_fits_its_time(natural_s: float, speed: float) -> None:
    item = Item(1, 1, "Hi.", "default", WAV, "1.wav", start_s=0.0, window_s=2.0)
    assert item.speed_for(natural_s) == speed


@pytest.mark.parametrize(
    ("path", "kind"),
    [("a.csv", "csv"), ("A.SRT", "srt"), ("b.ndjson", "jsonl"), ("-", "text"), ("x", "text")],
)
def test_the_ending_names_the_kind(path: str, kind: str) -> None:
    assert input_kind(path) == kind


# kind, input, what the sentence must name
BAD: list[tuple[InputKind, bytes, str]] = [
    ("text", b" \n\n", "no text"),
    ("text", b"Hello.\nB\xff.", "line 2 is not UTF-8"),
    ("csv", b"", "one of them text"),
    ("csv", b"words,voice\nHi.,x\n", "one of them text"),
    ("csv", b"text,voice\nHi.,x,y\n", "line 2 has not 2 columns"),
    ("csv", b"text,voice\nHi.\n", "line 2 has not 2 columns"),
    ("csv", b'text\n"Hi.\n', "no CSV"),
    ("csv", b"text,seed\nHi.,seven\n", "line 2: seed must be a whole number"),
    ("csv", b"text,speed\nHi.,2\n", "line 2: speed must be a number from 0.7 to 1.2"),
    ("csv", b"text,format\nHi.,mp9\n", "line 2: output_format 'mp9'"),
    ("csv", b"text,voice\n,x\n", "line 2: there is no text"),
    ("jsonl", b'{"text": "Hi."}\nHello\n', "line 2 is no JSON object"),
    ("jsonl", b'{"text": 5}', "line 1: text must be a string"),
    ("jsonl", b'{"text": "Hi.", "name": ".."}', "line 1: "),
    ("jsonl", b'{"text": "A", "name": "x"}\n{"text": "B", "name": "X"}', "lines 1 and 2"),
    ("srt", b"1\nnow --> then\nHi.\n", "line 2 must be the times"),
]


@pytest.mark.parametrize(("kind", "data", "named"), BAD)
def test_bad_input_is_a_sentence_that_names_the_line(
    kind: InputKind, data: bytes, named: str
) -> None:
    with pytest.raises(BadInput) as raised:
        read_items(data, kind, DEFAULTS)
    assert named in str(raised.value)


@pytest.mark.parametrize("template", ["{scene}", "{index", "{0}", "{index.real.x}", "{index:zz}"])
def test_a_bad_name_template_is_a_sentence(template: str) -> None:
    with pytest.raises(BadInput, match="line 1: the file name"):
        read("Hi.", template=template)


def test_a_name_never_leaves_the_folder() -> None:
    (item,) = read('{"text": "Hi.", "name": "../../etc/passwd"}'.replace("..", "a.."), "jsonl")
    assert item.file == "a.._a.._etc_passwd.wav"


def test_text_and_settings_alone_make_the_identity() -> None:
    first, second, other = read("Hi.\nHi.\nHo.")
    assert first.request_key == second.request_key
    assert first.request_key != other.request_key
    with_seed = read_items(b"Hi.", "text", ItemDefaults("default", WAV, settings={"seed": 1}))
    assert with_seed[0].request_key != first.request_key
