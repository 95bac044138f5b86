"""`csm-trio bench --engine`: its flags, its output and its errors."""

import argparse
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType

from csm_trio.bench.engine.command import (
    EngineBenchOptions,
    add_engine_bench_flags,
    bench_engine,
    check_for_load,
    read_engine_bench_options,
)
from csm_trio.bench.load.flags import add_bench_flags
from csm_trio.cli import main
from csm_trio.config import EngineConfig
from csm_trio.errors import StartupError
from support.csm_flavors import write_gguf
from support.tiny_csm import write_tiny_checkpoint


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("CSM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("csm_trio.telemetry.configure_logging", lambda level: None)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


def flags_of(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="csm-trio bench", allow_abbrev=False)
    add_bench_flags(parser, {})
    add_engine_bench_flags(parser)
    return parser.parse_args(argv)


def parse(*argv: str, **environ: str) -> EngineBenchOptions:
    return read_engine_bench_options(flags_of("--engine", *argv), environ)


def test_without_flags_the_embedded_voice_is_timed_with_default_batches() -> None:
    options = parse()
    assert options == EngineBenchOptions(EngineConfig())
    assert (options.batches, options.steps, options.transformers_batches) == (None, 50, None)


def test_flags_choose_batches_steps_baseline_and_file(tmp_path: Path) -> None:
    file = tmp_path / "engine.json"
    options = parse(
        "--batches", "1,64", "--steps", "9", "--transformers-batches", "2", "--json", str(file)
    )  # fmt: skip
    assert (options.batches, options.steps, options.transformers_batches) == ((1, 64), 9, (2,))
    assert options.json_file == file
    for none in ("none", "0"):
        assert parse("--transformers-batches", none).transformers_batches == ()


def test_the_model_is_set_as_for_serve_by_flag_environment_or_file(tmp_path: Path) -> None:
    toml = tmp_path / "server.toml"
    toml.write_text('model-id = "a/b"\ndtype = "f16"\nport = 1\nlog-level = "error"\n')
    options = parse("--config", str(toml), "--dtype", "bf16", "--cpu", CSM_POOL_SIZE="8")
    assert options.engine == EngineConfig(pool_size=8, device="cpu", dtype="bf16", model_id="a/b")
    assert options.log_level == "error"


INVALID = [
    (["--engine", "--url", "ws://127.0.0.1:8080"], "--url: for a load on a server"),
    (["--engine", "--calls", "1", "--seed", "1"], "--calls, --seed: for a load"),
    (["--engine", "--plot", "a.svg"], "--plot: for a load"),
    (["--engine", "--rate", "8"], "--rate: for a load"),
    (["--rate", "8", "--calls", "8"], "--calls: for calls that last"),
    (["--cpu"], "--cpu: for bench --engine"),
    (["--steps", "50", "--calls", "2"], "--steps: for bench --engine"),
    (["--config", "a.toml"], "--config: for bench --engine"),
    (["--weights-path", "a", "--batches", "1"], "--batches, --weights-path: for bench --engine"),
    (["--engine", "--dtype", "f8"], "--dtype: 'f8' is not one of"),
    (["--engine", "--model-file", "a.gguf"], "--model-file names a file of a repository"),
    (["--engine", "--weights-path", "no/where"], "no/where does not exist"),
    (["--engine", "--pool-size", "2", "--batches", "1,4"], "--pool-size 2: no batch of 4 fits"),
]


@pytest.mark.parametrize(("argv", "sentence"), INVALID)
def test_invalid_flags_are_one_line_and_exit_code_1(
    argv: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *argv]) == 1
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert line.startswith("csm-trio: ")
    assert sentence in line
    assert shown.out == ""


def test_flags_of_a_load_test_are_accepted_without_engine() -> None:
    check_for_load(flags_of("--calls", "2", "--json", "a"))


def test_the_embedded_voice_is_timed_with_the_transformers_baseline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "engine.json"
    argv = ["--cpu", "--batches", "1,2", "--steps", "2", "--json", str(file)]
    assert main(["bench", "--engine", *argv]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("the embedded voice on cpu (1 thread on ")
    assert "transformers generate, 2 rows, no audio: " in shown
    document = json.loads(file.read_text(encoding="utf-8"))
    assert set(document) == {"tool", "version", "date", "machine", "config", "engine"}
    assert document["tool"] == "csm-trio bench --engine"
    assert document["config"]["device"] == "cpu"
    engine = document["engine"]
    assert [row["batch"] for row in engine["batches"]] == [1, 2]
    assert [row["steps"] for row in engine["batches"]] == [2, 2]
    assert [row["batch"] for row in engine["baselines"]] == [1, 2]
    assert [row["positions"] for row in engine["prefills"]] == [64, 256, 1024]
    assert (engine["slots"], engine["notes"]) == (2, [])
    for name in ("floor_ms", "frame_bytes", "copy_bytes_per_s", "weight_bytes", "slot_bytes"):
        assert engine[name] > 0
    assert engine["peak_bytes"] > engine["weight_bytes"]


def options_for(path: Path) -> EngineBenchOptions:
    engine = EngineConfig(device="cpu", weights_path=path)
    return EngineBenchOptions(engine, batches=(1,), steps=2)


def test_a_checkpoint_is_timed_with_the_transformers_baseline(tiny: Path) -> None:
    out = io.StringIO()
    assert bench_engine(options_for(tiny), out=out) == 0
    table = out.getvalue()
    assert table.startswith(f"{tiny} on cpu")
    assert "transformers generate, 1 row, no audio: " in table
    assert "not measured" not in table


def test_the_transformers_baseline_can_be_skipped(tiny: Path) -> None:
    out = io.StringIO()
    assert bench_engine(replace(options_for(tiny), transformers_batches=()), out=out) == 0
    assert "transformers" not in out.getvalue()


def test_a_failed_transformers_load_is_a_note_below_the_table(tiny: Path, tmp_path: Path) -> None:
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    path = write_gguf(tiny, tmp_path / "tiny.gguf", GGMLQuantizationType.F32)
    out = io.StringIO()
    assert bench_engine(options_for(path), out=out) == 0
    last = out.getvalue().splitlines()[-1]
    assert last.startswith(
        f"transformers generate: not measured. transformers cannot load {tmp_path}: "
    )


def test_the_transformers_baseline_is_skipped_if_it_does_not_fit(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("csm_trio.bench.engine.measure.available_bytes", lambda device: 1 << 10)
    out = io.StringIO()
    assert bench_engine(options_for(tiny), out=out) == 0
    last = out.getvalue().splitlines()[-1]
    assert last.startswith("transformers generate: not measured. It would take ")
    assert last.endswith("and cpu has 0.0 MiB left.")


def test_slots_too_short_for_the_timed_sentence_are_one_error_sentence(tiny: Path) -> None:
    short = replace(options_for(tiny), engine=replace(options_for(tiny).engine, max_positions=64))
    with pytest.raises(StartupError, match="--max-positions 64: too few"):
        bench_engine(short)


def test_a_file_that_cannot_be_written_is_one_error_sentence(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone" / "engine.json"
    options = replace(options_for(tiny), transformers_batches=(), json_file=gone)
    out = io.StringIO()
    assert bench_engine(options, out=out) == 1
    assert capsys.readouterr().err == (
        f"csm-trio bench: cannot write {gone}: No such file or directory\n"
    )
    assert "real-time factor" in out.getvalue()
