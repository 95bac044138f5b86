"""`csm-trio voices`: list, check, add and remove the voices that `serve` would know.

Works on the files, with or without a server that runs; a server reads them again by itself.
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import trio

from csm_trio.config import Config, add_flags, load_config
from csm_trio.errors import NotOffered, SpeechError, StartupError
from csm_trio.named_files import check_file, read_file
from csm_trio.timebase import SAMPLE_RATE_HZ
from csm_trio.voice_store.adding import clip_sources, encode_new, new_entry, speaker_ids
from csm_trio.voice_store.changes import NewVoice, UploadedClip
from csm_trio.voice_store.directory import VoiceDirectory
from csm_trio.voice_store.encoded_voice import (
    EncodedVoice,
    EncodingOutcome,
    EncodingRequest,
    VoiceSource,
)
from csm_trio.voice_store.encoder_process import encode_voices
from csm_trio.voices import MAX_CLIP_BYTES, Voice, VoiceCatalog, is_speaker_id

_MAX_TEXT_BYTES = 64 << 10
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9_-]+")
_Action = Callable[[argparse.Namespace, Config], int]


def add_voices_flags(
    parser: argparse.ArgumentParser, environ: Mapping[str, str]
) -> "argparse._SubParsersAction[Any]":
    """Add the actions of `voices`, each with the settings of `serve`; `list` is the default.

    Return the actions, to which others may be added.
    """
    actions = parser.add_subparsers(title="actions", metavar="ACTION")
    for name, help_text, add_arguments, action in (
        ("list", "list the voice ids that serve would know (default)", _no_arguments, _list),
        ("check", "read all voices and encode their clips, as serve would", _no_arguments, _check),
        ("add", "add a voice to --data-dir", _add_arguments, _add),
        ("remove", "remove a voice from --data-dir", _remove_arguments, _remove),
    ):
        # Flags may stand before the action, too: those that are absent behind it set nothing.
        subparser = actions.add_parser(name, help=help_text, argument_default=argparse.SUPPRESS)
        add_arguments(subparser)
        add_flags(subparser)
        subparser.set_defaults(action=action)
    add_flags(parser)
    parser.set_defaults(action=_list, environ=environ)
    return actions


def run_command(options: argparse.Namespace) -> int:
    """Run the chosen action; return its exit status. Raises StartupError where it fails."""
    config = load_config(vars(options), options.environ)
    action: _Action = options.action
    try:
        return action(options, config)
    except SpeechError as error:
        raise StartupError(error.message) from None


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", help="the voice's name, of which its id is made")
    add("clips", nargs="+", metavar="CLIP", help="audio file of 2 to 30 s of speech")
    add(
        "--text", action="append", required=True, metavar="TEXT",
        help="transcript of a clip, word for word, or @FILE; once for each clip, in their order",
    )  # fmt: skip
    add("--description", default=None, help="what the lists say of it (unit: text; default: none)")
    add(
        "--label", action="append", default=[], metavar="NAME=TEXT",
        help="a label, any number of times (unit: text; default: none)",
    )  # fmt: skip
    add(
        "--speaker-id", type=int, default=None, metavar="N",
        help="speaker id of the model (unit: number; default: the one that suits the clips)",
    )  # fmt: skip


def _remove_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("voice", help="the voice's id")


def _list(options: argparse.Namespace, config: Config) -> int:
    voices, _ = _known(config)
    for voice in voices:
        print(f"{voice.voice_id}\tspeaker {voice.speaker_id}\t{voice.name}")
    return 0


def _check(options: argparse.Namespace, config: Config) -> int:
    """Print the clips of each voice, and what is wrong with it; return 1 where one is unusable."""
    voices, problems = _known(config)
    failed = bool(problems)
    for voice, outcome in zip(voices, _outcomes(config, voices), strict=True):
        if isinstance(outcome, str):
            failed = True
            print(f"{voice.voice_id}\tunusable: {outcome}")
            continue
        clips_s = sum(len(clip.pcm) for clip in outcome.clips) / SAMPLE_RATE_HZ
        print(f"{voice.voice_id}\t{len(outcome.clips)} clips, {clips_s:.1f} s")
        for warning in outcome.warnings:
            print(f"{voice.voice_id}\twarning: {warning}")
    return int(failed)


def _add(options: argparse.Namespace, config: Config) -> int:
    """Add a voice, and print its id."""
    directory = _directory(config)
    new = _new_voice(options)
    listed = VoiceCatalog.load(config.speech.voices_file)
    voice_id = _NOT_IN_IDS.sub("_", new.name).strip("_") or "voice"
    if directory.has(voice_id) or listed.find(voice_id) is not None:
        raise StartupError(f"There is a voice of the id {voice_id!r} already.")
    source = VoiceSource(speaker_ids(new, listed.all()), clip_sources(new.clips))
    encoded = trio.run(encode_new, source, config.engine, encode_voices)
    for warning in encoded.warnings:
        print(f"csm-trio: {warning}", file=sys.stderr)
    directory.add(voice_id, new_entry(new, encoded))
    print(voice_id)
    return 0


def _remove(options: argparse.Namespace, config: Config) -> int:
    directory = _directory(config)
    voices, _ = directory.read()
    if options.voice not in [voice.voice_id for voice in voices]:
        raise StartupError(f"--data-dir {directory.path} has no voice {options.voice!r}.")
    directory.remove(options.voice)
    return 0


def _known(config: Config) -> tuple[list[Voice], list[str]]:
    """Return the voices of the voices file and of the data directory, and what is broken there."""
    voices = list(VoiceCatalog.load(config.speech.voices_file).all())
    if config.speech.data_dir is None:
        return voices, []
    added, problems = _directory(config).read()
    for problem in problems:
        print(f"csm-trio: {problem}", file=sys.stderr)
    return voices + added, problems


def _outcomes(config: Config, voices: Sequence[Voice]) -> Sequence[EncodingOutcome]:
    if not any(voice.clips for voice in voices):
        return [EncodedVoice(voice.speaker_id, ()) for voice in voices]
    sources = tuple(VoiceSource.of(voice) for voice in voices)
    return trio.run(encode_voices, EncodingRequest(config.engine, sources))


def _directory(config: Config) -> VoiceDirectory:
    if config.speech.data_dir is None:
        raise NotOffered("Added voices are kept in --data-dir, which is not set.")
    directory = VoiceDirectory(config.speech.data_dir)
    directory.open()
    return directory


def _new_voice(options: argparse.Namespace) -> NewVoice:
    if len(options.text) != len(options.clips):
        raise StartupError(
            f"There are {len(options.clips)} clips and {len(options.text)} times --text: each clip "
            "needs its transcript."
        )
    labels = [label.partition("=") for label in options.label]
    if not all(separator for _, separator, _ in labels):
        raise StartupError("--label is NAME=TEXT.")
    if options.speaker_id is not None and not is_speaker_id(options.speaker_id):
        raise StartupError(f"--speaker-id {options.speaker_id} is no speaker id.")
    return NewVoice(
        name=options.name,
        clips=tuple(
            UploadedClip(_clip(Path(clip)), _text(text), Path(clip).name)
            for clip, text in zip(options.clips, options.text, strict=True)
        ),
        description=options.description,
        labels={name: text for name, _, text in labels},
        speaker_id=options.speaker_id,
    )


def _clip(path: Path) -> Path:
    check_file(path, max_bytes=MAX_CLIP_BYTES)
    return path


def _text(text: str) -> str:
    if not text.startswith("@"):
        return text
    return read_file(Path(text[1:]), max_bytes=_MAX_TEXT_BYTES).decode("utf-8-sig", "replace")
