"""`csm-trio bench`: parsing of its flags."""

import argparse
from pathlib import Path

import pytest

from csm_trio.audio.formats import AudioFormat
from csm_trio.bench.engine.command import add_engine_bench_flags
from csm_trio.bench.load.flags import (
    BenchOptions,
    RateOptions,
    add_bench_flags,
    read_bench_options,
)
from csm_trio.bench.load.workload import TEXTS, Workload
from csm_trio.errors import StartupError


def parse(*argv: str, **environ: str) -> BenchOptions:
    parser = argparse.ArgumentParser(prog="csm-trio bench", allow_abbrev=False)
    add_bench_flags(parser, environ)
    add_engine_bench_flags(parser)
    return read_bench_options(parser.parse_args(argv))


def test_without_flags_one_call_is_held_on_the_local_server() -> None:
    formats = AudioFormat.parse("pcm_24000"), AudioFormat.parse("ulaw_8000")
    assert parse() == BenchOptions(
        Workload("ws://127.0.0.1:8080", formats), calls=(1,), duration_s=30.0
    )
    assert parse().workload.texts == TEXTS


# flags, where it lands in the workload, its value
WORKLOADS: list[tuple[list[str], str, object]] = [
    (["--url", "https://h/tts/"], "base_url", "wss://h/tts"),
    (["--url", "http://[::1]:9"], "base_url", "ws://[::1]:9"),
    (["--url", "http://bücher.example:9/a b"], "base_url", "ws://xn--bcher-kva.example:9/a%20b"),
    (["--voice", "bob"], "voice_id", "bob"),
    (["--api-key", "k"], "api_key", "k"),
    (["--formats", "wav_16000"], "formats", (AudioFormat.parse("wav_16000"),)),
    (["--arrivals", "together"], "arrivals", "together"),
    (["--ramp-s", "0.5"], "ramp_s", 0.5),
    (["--words-per-s", "0"], "words_per_s", 0.0),
    (["--turn-pause-s", "3"], "turn_pause_s", 3.0),
    (["--barge-in", "1"], "barge_in", 1.0),
    (["--seed", "7"], "seed", 7),
]


@pytest.mark.parametrize(("argv", "field", "value"), WORKLOADS)
def test_a_flag_sets_its_field(argv: list[str], field: str, value: object) -> None:
    assert getattr(parse(*argv).workload, field) == value


def test_a_sweep_its_time_and_its_files(tmp_path: Path) -> None:
    flags = ["--calls", "1,8,64", "--duration-s", "15"]
    asked = parse(*flags, "--json", str(tmp_path / "a"), "--plot", str(tmp_path / "a.svg"))
    assert (asked.calls, asked.duration_s) == ((1, 8, 64), 15.0)
    assert (asked.json_file, asked.plot_file) == (tmp_path / "a", tmp_path / "a.svg")


def test_calls_are_made_by_one_process_unless_more_are_asked_for() -> None:
    assert parse().clients == parse("--clients", "auto").clients == 1
    assert parse("--calls", "1024", "--clients", "4").clients == 4


def test_texts_are_the_lines_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "texts"
    file.write_text("Hello you.\n\n  Good bye. See you. \n", encoding="utf-8")
    assert parse("--texts", str(file)).workload.texts == ("Hello you.", "Good bye. See you.")


def test_the_key_comes_from_the_flag_before_the_environment_and_is_not_shown() -> None:
    assert parse(CSM_API_KEY="s3cret").workload.api_key == "s3cret"
    assert parse("--api-key", "flag", CSM_API_KEY="s3cret").workload.api_key == "flag"
    assert "s3cret" not in repr(parse(CSM_API_KEY="s3cret"))


def test_a_rate_is_an_open_loop_with_defaults_of_its_own() -> None:
    options = parse("--rate", "1,8,0.5")
    assert options.rate == RateOptions((1.0, 8.0, 0.5), 30.0, (1, 2, 3), None)
    assert (options.duration_s, options.workload.words_per_s) == (60.0, 0.0)
    assert parse().rate is None


def test_warm_up_seeds_clients_pace_and_time_of_a_rate_can_be_set() -> None:
    options = parse(
        *("--rate", "20", "--warm-up-s", "0", "--seeds", "7,8", "--clients", "4"),
        *("--duration-s", "120", "--words-per-s", "100"),
    )
    assert options.rate == RateOptions((20.0,), 0.0, (7, 8), 4)
    assert (options.duration_s, options.workload.words_per_s) == (120.0, 100.0)
    assert parse("--rate", "1", "--clients", "auto").rate == RateOptions((1.0,))


# flags that have no meaning together, what the sentence says of them
CONFLICTS = [
    (["--rate", "1", "--calls", "2", "--seed", "1"], "--calls, --seed: for calls that last"),
    (["--rate", "1", "--barge-in", "0"], "--barge-in: for calls that last"),
    (["--rate", "1", "--turn-pause-s", "0"], "--turn-pause-s: for calls that last"),
    (["--rate", "1", "--arrivals", "fixed"], "--arrivals: for calls that last"),
    (["--rate", "1", "--ramp-s", "1"], "--ramp-s: for calls that last"),
    (["--warm-up-s", "1"], "--warm-up-s: for open-loop arrivals, with --rate."),
    (["--calls", "2", "--warm-up-s", "1", "--seeds", "1"], "--warm-up-s, --seeds: for open-loop"),
    (["--rate", "1", "--formats", "pcm_8000,mp3_44100_64"], "--formats mp3_44100_64: with --rate"),
]


@pytest.mark.parametrize(("argv", "sentence"), CONFLICTS)
def test_flags_without_meaning_together_are_one_sentence(argv: list[str], sentence: str) -> None:
    with pytest.raises(StartupError) as error:
        parse(*argv)
    assert str(error.value).startswith(sentence)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


MISUSES = [
    ["--rate", ""],
    ["--rate", "0"],
    ["--rate", "1,"],
    ["--rate", "inf"],
    ["--rate", "fast"],
    ["--rate", "10001"],
    ["--warm-up-s", "-1"],
    ["--seeds", "1,1"],
    ["--seeds", "x"],
    ["--clients", "0"],
    ["--clients", "1,2"],
    ["--clients", "many"],
    ["--calls", ""],
    ["--calls", "0"],
    ["--calls", "1,,2"],
    ["--calls", "-1"],
    ["--calls", "²"],
    ["--calls", "10001"],
    ["--calls", "1" * 5000],
    ["--duration-s", "0"],
    ["--duration-s", "nan"],
    ["--duration-s", "soon"],
    ["--ramp-s", "-1"],
    ["--ramp-s", "inf"],
    ["--barge-in", "1.1"],
    ["--arrivals", "never"],
    ["--formats", "pcm_8001"],
    ["--formats", "pcm_24000,"],
    ["--formats", "opus_48000_32"],
    ["--texts", "/nonexistent/file"],
    ["--json", "/nonexistent/file"],
    ["--json", "/"],
    ["--plot", "a.png"],
    ["--plot", "/nonexistent/a.svg"],
    ["--api-key", "a b"],
    ["--batches", "0"],
    ["--batches", "1,x"],
    ["--batches", "1025"],
    ["--steps", "0"],
    ["--steps", "3,4"],
    ["--transformers-batches", "1,none"],
    *(
        ["--url", url]
        for url in ("h:1", "ftp://h", "ws://", "ws://h:99999", "ws://h?x", "ws://a@h")
    ),
]


@pytest.mark.parametrize("argv", MISUSES)
def test_a_misuse_exits_with_2_and_names_the_flag(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(*argv)
    assert exit_.value.code == 2
    assert f"argument {argv[0]}: " in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe"])
def test_a_file_without_text_is_a_misuse(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "texts"
    file.write_bytes(content)
    with pytest.raises(SystemExit):
        parse("--texts", str(file))
    assert "argument --texts: " in capsys.readouterr().err


def test_the_help_states_unit_and_default_of_every_flag() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    add_bench_flags(parser, {})
    add_engine_bench_flags(parser)
    for action in parser._actions:
        assert action.help is not None
        optional = action.default is None
        assert optional or "default: " in action.help, action.dest
