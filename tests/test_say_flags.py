"""`csm-trio say`: parsing of its flags."""

import argparse
from pathlib import Path

import pytest

from csm_trio.audio.formats import AudioFormat
from csm_trio.client import SpeechTarget
from csm_trio.say import SayOptions, add_say_flags, read_say_options


def parse(*argv: str, **environ: str) -> SayOptions:
    parser = argparse.ArgumentParser(prog="csm-trio say", allow_abbrev=False)
    add_say_flags(parser, environ)
    return read_say_options(parser.parse_args(argv))


URLS = [
    ("ws://127.0.0.1:8080", "ws://127.0.0.1:8080"),
    ("ws://127.0.0.1:8080/", "ws://127.0.0.1:8080"),
    ("http://localhost", "ws://localhost"),
    ("https://tts.example.com/voice/", "wss://tts.example.com/voice"),
    ("WSS://tts.example.com:8443/a b", "wss://tts.example.com:8443/a%20b"),
    ("http://[::1]:8080", "ws://[::1]:8080"),
    ("https://bücher.example/ä", "wss://xn--bcher-kva.example/%C3%A4"),
]


@pytest.mark.parametrize(("given", "base_url"), URLS)
def test_a_url_keeps_its_host_and_path_and_gets_a_websocket_scheme(
    given: str, base_url: str
) -> None:
    assert parse("Hi.", "--url", given).target.base_url == base_url


def test_without_flags_the_local_server_is_used() -> None:
    target = SpeechTarget(audio_format=AudioFormat.parse("pcm_24000"))
    assert parse() == SayOptions(target, None, Path("speech.pcm"))
    assert target.base_url == "ws://127.0.0.1:8080"


# flags, format, file
FILES = [
    (["--out", "a.wav"], "wav_24000", Path("a.wav")),
    (["--out", "b/A.MP3"], "mp3_44100_128", Path("b/A.MP3")),
    (["--out", "a.ulaw"], "ulaw_8000", Path("a.ulaw")),
    (["--out", "a.raw"], "pcm_24000", Path("a.raw")),
    (["--out", "-"], "pcm_24000", None),
    (["--out", "-", "--format", "wav_16000"], "wav_16000", None),
    (["--out", "a.wav", "--format", "wav_44100"], "wav_44100", Path("a.wav")),
    (["--format", "mp3_22050_32"], "mp3_22050_32", Path("speech.mp3")),
    (["--format", "ulaw_8000"], "ulaw_8000", Path("speech.ulaw")),
    (["--out", "a.opus"], "opus_48000_64", Path("a.opus")),
    (["--format", "m4a_aac_44100_128"], "m4a_aac_44100_128", Path("speech.m4a")),
]


@pytest.mark.parametrize(("flags", "format_name", "out"), FILES)
def test_the_files_ending_names_the_format_unless_a_flag_does(
    flags: list[str], format_name: str, out: Path | None
) -> None:
    asked = parse("Hi.", *flags)
    assert (asked.target.audio_format.name, asked.out) == (format_name, out)


def test_every_speech_setting_has_its_flag() -> None:
    flags = ["--speaker-id", "2", "--temperature", "0.5", "--top-k", "9", "--seed", "3"]
    asked = parse("Hi.", "--voice", "bob", *flags, "--max-audio-len-ms", "4000")
    assert asked.target.settings == {
        "speaker_id": 2,
        "temperature": 0.5,
        "top_k": 9,
        "seed": 3,
        "max_audio_len_ms": 4000,
    }
    assert (asked.target.voice_id, asked.text) == ("bob", "Hi.")


def test_the_key_comes_from_the_flag_before_the_environment() -> None:
    assert parse(CSM_API_KEY="env").target.api_key == "env"
    assert parse("--api-key", "flag", CSM_API_KEY="env").target.api_key == "flag"
    assert parse(CSM_API_KEY="").target.api_key is None


# arguments, what the message names
MISUSES = [
    ([" "], "text"),
    (["Hi.", "--format", "pcm_8001"], "--format"),
    (["Hi.", "--api-key", "a b"], "--api-key"),
    (["Hi.", "--top-k", "few"], "--top-k"),
    *(
        (["Hi.", "--url", url], "--url")
        for url in (
            "127.0.0.1:8080",
            "localhost",
            "ftp://h",
            "ws://",
            "ws://h:99999",
            "ws://h?x=1",
            "ws://me@h",
            "ws://a..b",
            "ws://[::1",
            "ws://a b",
        )
    ),
]


@pytest.mark.parametrize(("argv", "named"), MISUSES)
def test_a_misuse_exits_with_2_and_names_the_argument(
    argv: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(*argv)
    assert exit_.value.code == 2
    assert f"argument {named}: " in capsys.readouterr().err
