"""The command `csm-trio batch`: its help, its bad usage, and what it does not import."""

import subprocess
import sys
from pathlib import Path

import pytest

from csm_trio.cli import main


def test_help_says_unit_and_default_of_every_flag(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as ended:
        main(["batch", "--help"])
    assert ended.value.code == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    flags = [line for line in lines if line.startswith("--")]
    assert len(flags) == 18
    for line in flags:
        assert "(unit: " in line, line
        assert "; default: " in line or line.startswith("--out "), line


BAD = [
    (["missing.txt"], "missing.txt: it cannot be read: No such file or directory."),
    (["empty.txt"], "empty.txt: there is no text in it."),
    (["bad.csv"], "bad.csv: line 2: seed must be a whole number from 0 to 4294967295."),
    (["good.txt", "--speed", "3"], "--speed must be a number from 0.7 to 1.2."),
    (["good.txt", "--name", "{part}"], "good.txt: line 1: the file name has {part}, but only "),
    (["good.txt", "--join", "x/a.wav"], "Cannot write x/a.wav: there is no folder x."),
    (
        ["good.txt", "--join", "out/00001.wav"],
        "Cannot write out/00001.wav: it is the file of an item.",
    ),
    (["good.txt", "--out", "good.txt"], "Cannot write to good.txt: File exists."),
]


@pytest.mark.parametrize(("argv", "sentence"), BAD)
def test_bad_input_is_one_sentence_and_status_2(
    argv: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.txt").write_text("Hello.")
    Path("empty.txt").write_text("\n\n")
    Path("bad.csv").write_text("text,seed\nHello.,-1\n")
    assert main(["batch", "--out", "out", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"csm-trio batch: {sentence}")


@pytest.mark.parametrize("argv", [[], ["x.txt"], ["x.txt", "--out", "x", "--url", "ftp://x"]])
def test_wrong_usage_is_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["batch", *argv])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: csm-trio batch")


def test_neither_the_server_nor_the_model_is_imported() -> None:
    program = "import sys, csm_trio.batch.command; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    modules = shown.stdout.split()
    assert "csm_trio.batch.run" in modules
    for name in ("torch", "quart", "csm_trio.server", "csm_trio.api", "csm_trio.engine"):
        assert name not in modules
