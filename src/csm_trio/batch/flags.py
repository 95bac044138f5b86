"""The flags of `csm-trio batch`."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from csm_trio.audio.formats import FORMATS, AudioFormat
from csm_trio.batch.item import BadInput
from csm_trio.batch.items import (
    INPUT_KINDS,
    MAX_PAUSE_S,
    InputKind,
    ItemDefaults,
    input_kind,
    read_settings,
)
from csm_trio.batch.join import JOIN_SUFFIXES
from csm_trio.batch.names import DEFAULT_TEMPLATE
from csm_trio.client_flags import DEFAULT_URL, add_key_flag, add_voice_flag, base_url
from csm_trio.errors import InvalidRequest
from csm_trio.protocol.fields import QueryFields
from csm_trio.protocol.speech_fields import SPEED

STANDARD_INPUT = "-"
DEFAULT_FORMAT = "wav_24000"

_LOUDNESS_LUFS = (-40.0, -5.0)
_MAX_RETRIES = 100
_MAX_PATIENCE_S = 86_400.0

# flag, metavar, help with unit and default
_VALUES = (
    ("--seed", "N", "seed of the sampling: makes speech repeatable (unit: number; default: none)"),
    ("--speed", "S", "tempo, 0.7 to 1.2 (unit: times; default: 1)"),
    ("--speaker-id", "N", "speaker (unit: number; default: the server's)"),
    ("--temperature", "T", "0 is greedy (unit: none; default: the server's)"),
    ("--top-k", "K", "1 is greedy (unit: candidates; default: the server's)"),
    ("--max-audio-len-ms", "N", "max audio of one sentence (unit: ms; default: the server's)"),
    ("--loudness", "L", "loudness of every file, by EBU R128 (unit: LUFS; default: as generated)"),
    ("--pause-s", "P", "pause between items in the joined file (unit: s; default: 0.5)"),
    ("--retries", "N", "further attempts at an item (unit: attempts; default: 5)"),
    ("--patience-s", "P", "time without any server before the rest fails (unit: s; default: 120)"),
)


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """The options of `batch`; `source` is a path or `-`, `join_path` None joins nothing."""

    source: str
    kind: InputKind
    out: Path
    defaults: ItemDefaults
    urls: tuple[str, ...] = (DEFAULT_URL,)
    api_key: str | None = None
    join_path: Path | None = None
    pause_s: float = 0.5
    retries: int = 5
    patience_s: float = 120.0


def add_batch_flags(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """Add the input and flags of `batch`; `CSM_API_KEY` of `environ` is the key's default."""
    add = parser.add_argument
    add("input", help="file of texts: lines, .csv, .jsonl or .srt; - is standard input")
    add("--out", required=True, metavar="DIR", help="folder of the audio files (unit: path)")
    add(
        "--url",
        type=base_url,
        action="append",
        help="server, ws:, wss:, http: or https:; several times for several servers "
        f"(unit: URL; default: {DEFAULT_URL})",
    )
    add_key_flag(add, environ)
    add(
        "--input-format",
        choices=INPUT_KINDS,
        metavar="KIND",
        help=f"one of {', '.join(INPUT_KINDS)} (unit: none; default: by its ending, else text)",
    )
    add_voice_flag(add)
    add(
        "--format",
        choices=FORMATS,
        default=DEFAULT_FORMAT,
        metavar="FORMAT",
        help=f"format of the files (unit: output_format; default: {DEFAULT_FORMAT})",
    )
    add(
        "--name",
        default=DEFAULT_TEMPLATE,
        metavar="TEMPLATE",
        help="file name, of {index}, {line}, {slug}, {voice}, {seed} and the input's columns "
        f"(unit: text; default: {DEFAULT_TEMPLATE})",
    )
    add(
        "--join",
        metavar="FILE",
        help=f"also write all audio into one file, {', '.join(JOIN_SUFFIXES)} "
        "(unit: path; default: none)",
    )
    for flag, metavar, help_line in _VALUES:
        add(flag, metavar=metavar, help=help_line)


def read_batch_options(flags: argparse.Namespace) -> BatchOptions:
    """Return the options in the parsed flags of `add_batch_flags`; raises `BadInput`."""
    names = [flag.removeprefix("--").replace("-", "_") for flag, _, _ in _VALUES]
    given = {name: value for name in names if (value := getattr(flags, name)) is not None}
    values = QueryFields(given)
    try:
        return _options(flags, values)
    except InvalidRequest as error:
        flag = f"--{error.param.replace('_', '-')}"
        raise BadInput(error.message.replace(error.param, flag, 1)) from None


def _options(flags: argparse.Namespace, values: QueryFields) -> BatchOptions:
    speed = SPEED.read(values)
    pause_s = values.number("pause_s", 0.0, MAX_PAUSE_S)
    retries = values.integer("retries", 0, _MAX_RETRIES)
    patience_s = values.number("patience_s", 0.0, _MAX_PATIENCE_S)
    join_path = None if flags.join is None else Path(flags.join)
    if join_path is not None and join_path.suffix.lower() not in JOIN_SUFFIXES:
        raise BadInput(f"--join must end in one of {', '.join(JOIN_SUFFIXES)}.")
    return BatchOptions(
        source=flags.input,
        kind=flags.input_format or input_kind(flags.input),
        out=Path(flags.out),
        defaults=ItemDefaults(
            voice_id=flags.voice,
            audio_format=AudioFormat.parse(flags.format),
            settings=read_settings(values),
            speed=1.0 if speed is None else speed,
            loudness_lufs=values.number("loudness", *_LOUDNESS_LUFS),
            name_template=flags.name,
        ),
        urls=tuple(flags.url or (DEFAULT_URL,)),
        api_key=flags.api_key,
        join_path=join_path,
        pause_s=0.5 if pause_s is None else pause_s,
        retries=5 if retries is None else retries,
        patience_s=120.0 if patience_s is None else patience_s,
    )
