"""Read the input of a batch: lines of text, CSV, JSONL or SRT; one `Item` each.

Columns and members have the names of the request's fields. Other columns are for file names.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from csm_trio.audio.formats import AudioFormat
from csm_trio.batch.item import BadInput, Item, sha256
from csm_trio.batch.names import DEFAULT_TEMPLATE, checked_name, file_name, slug
from csm_trio.batch.subtitles import read_subtitles
from csm_trio.errors import InvalidRequest
from csm_trio.protocol.fields import Fields, JsonFields, QueryFields, parse_object
from csm_trio.protocol.speech_fields import (
    MAX_AUDIO_LEN_MS,
    SEED,
    SPEAKER_ID,
    SPEED,
    TEMPERATURE,
    TOP_K,
)

InputKind = Literal["text", "csv", "jsonl", "srt"]
INPUT_KINDS: tuple[InputKind, ...] = get_args(InputKind)
MAX_PAUSE_S = 600.0

_KIND_OF_SUFFIX: dict[str, InputKind] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".srt": "srt",
}
_SETTINGS = (SPEAKER_ID, TEMPERATURE, TOP_K, SEED, MAX_AUDIO_LEN_MS)


@dataclass(frozen=True, slots=True)
class ItemDefaults:
    """What holds for items that do not say otherwise."""

    voice_id: str
    audio_format: AudioFormat
    settings: Mapping[str, float] = field(default_factory=dict)
    speed: float = 1.0
    loudness_lufs: float | None = None
    name_template: str = DEFAULT_TEMPLATE


@dataclass(frozen=True, slots=True)
class _Entry:
    """One item as the input has it: the number of its line, its fields, and its subtitle times."""

    line: int
    fields: Fields
    start_s: float | None = None
    window_s: float | None = None


def input_kind(path: str) -> InputKind:
    """Return the kind of input that a file's ending names; text for any other."""
    return _KIND_OF_SUFFIX.get(Path(path).suffix.lower(), "text")


def read_items(data: bytes, kind: InputKind, defaults: ItemDefaults) -> list[Item]:
    """Return the items of an input in their order; raises `BadInput` naming the line."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput(f"line {line} is not UTF-8") from None
    items = [
        _item(entry, index, defaults) for index, entry in enumerate(_ENTRIES[kind](text), start=1)
    ]
    if not items:
        raise BadInput("there is no text in it")
    _check_names(items)
    return items


def _lines(text: str) -> Iterator[_Entry]:
    for line, words in enumerate(text.split("\n"), start=1):
        if words.strip():
            yield _Entry(line, QueryFields({"text": words.strip()}))


def _rows(text: str) -> Iterator[_Entry]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = reader.fieldnames or []
        if "text" not in columns:
            raise BadInput("line 1 must name the columns, one of them text")
        for row in reader:
            if None in row or None in row.values():
                raise BadInput(f"line {reader.line_num} has not {len(columns)} columns")
            yield _Entry(
                reader.line_num, QueryFields({name: value for name, value in row.items() if value})
            )
    except csv.Error as error:
        raise BadInput(f"line {reader.line_num} is no CSV: {error}") from None


def _objects(text: str) -> Iterator[_Entry]:
    for line, words in enumerate(text.split("\n"), start=1):
        if not words.strip():
            continue
        try:
            yield _Entry(line, JsonFields(parse_object(words)))
        except ValueError:
            raise BadInput(f"line {line} is no JSON object") from None


def _subtitles(text: str) -> Iterator[_Entry]:
    subtitles = read_subtitles(text.replace("\r", "").split("\n"))
    ends_s = [*(subtitle.start_s for subtitle in subtitles[1:]), None]
    for subtitle, end_s in zip(subtitles, ends_s, strict=True):
        window_s = None if end_s is None else round(end_s - subtitle.start_s, 3)
        yield _Entry(
            subtitle.line, QueryFields({"text": subtitle.text}), subtitle.start_s, window_s
        )


_ENTRIES = {"text": _lines, "csv": _rows, "jsonl": _objects, "srt": _subtitles}


def _item(entry: _Entry, index: int, defaults: ItemDefaults) -> Item:
    try:
        return _checked_item(entry, index, defaults)
    except (BadInput, InvalidRequest) as error:
        problem = str(error).removesuffix(".")
        raise BadInput(f"line {entry.line}: {problem}") from None


def _checked_item(entry: _Entry, index: int, defaults: ItemDefaults) -> Item:
    fields = entry.fields
    text = (fields.text("text") or "").strip()
    if not text:
        raise BadInput("there is no text")
    voice_id = fields.text("voice") or defaults.voice_id
    format_name = fields.text("format")
    audio_format = AudioFormat.parse(format_name) if format_name else defaults.audio_format
    settings = {**defaults.settings, **read_settings(fields)}
    if entry.start_s is not None:
        # One that is too long is generated a second time, which must be as long as the first.
        settings.setdefault("seed", int(sha256(text.encode())[:8], 16))
    values = {**fields.values, "index": index, "line": entry.line, "voice": voice_id}
    values |= {"seed": settings.get("seed", ""), "slug": slug(text)}
    name = fields.text("name")
    template = defaults.name_template
    speed = SPEED.read(fields)
    return Item(
        index=index,
        line=entry.line,
        text=text,
        voice_id=voice_id,
        audio_format=audio_format,
        file=checked_name(name, audio_format)
        if name
        else file_name(template, values, audio_format),
        settings=settings,
        speed=defaults.speed if speed is None else speed,
        loudness_lufs=defaults.loudness_lufs,
        pause_s=fields.number("pause_s", 0.0, MAX_PAUSE_S),
        chapter=fields.text("chapter"),
        start_s=entry.start_s,
        window_s=entry.window_s,
    )


def read_settings(fields: Fields) -> dict[str, float]:
    """Return the speech settings among the fields."""
    settings: dict[str, float | None] = {one.name: one.read(fields) for one in _SETTINGS}
    return {name: value for name, value in settings.items() if value is not None}


def _check_names(items: list[Item]) -> None:
    # Compared without case: some file systems do not tell the cases apart.
    first: dict[str, Item] = {}
    for item in items:
        other = first.setdefault(item.file.casefold(), item)
        if other is not item:
            raise BadInput(f"lines {other.line} and {item.line} have one file name, {item.file!r}")
