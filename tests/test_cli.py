"""The command line: its help, and failures as one line instead of a traceback."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from csm_trio import process_tuning
from csm_trio.audio.wav import read_wav
from csm_trio.cli import main
from csm_trio.config import SETTINGS, Config
from csm_trio.setting_types import SWITCH
from support.client_calls import sine_speech
from support.fakes import SineRunner
from support.serving import TEST_SERVER, serving

SAY_FLAGS = {
    "--url": "(unit: URL; default: ws://127.0.0.1:8080)",
    "--voice": "(unit: voice id; default: default)",
    "--api-key": "(unit: text; default: $CSM_API_KEY, else none)",
    "--format": "(unit: output_format; default: ",
    "--out": "(unit: path; default: ",
    "--speaker-id": "(unit: number; default: ",
    "--temperature": "(unit: none; default: ",
    "--top-k": "(unit: candidates; default: ",
    "--seed": "(unit: number; default: none)",
    "--max-audio-len-ms": "(unit: ms; default: ",
}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the settings of the environment, and fix the width of the terminal."""
    for name in [name for name in os.environ if name.startswith("CSM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def quiet_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a server's logging away from the root logger of the tests."""
    monkeypatch.setattr("csm_trio.telemetry.configure_logging", lambda level, **settings: None)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def help_of(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of(capsys)
    for command in ("serve", "say", "voices"):
        assert f"\n    {command} " in shown


@pytest.mark.parametrize("command", ["serve", "voices"])
def test_help_says_unit_and_default_of_every_setting(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = " ".join(help_of(capsys, command).split())
    for setting in SETTINGS:
        is_switch = setting.value_type is SWITCH
        default = setting.unset if is_switch or setting.default is None else setting.default
        head, _, tail = shown.partition(f" {setting.help} (unit: ")
        assert head.split()[-1 if is_switch else -2] == setting.flag
        assert tail.startswith(f"{setting.unit}; default: {default})")
    assert "--config FILE TOML file of settings (unit: path; default: unset)" in shown


def test_help_says_unit_and_default_of_every_flag_of_say(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [line.strip() for line in help_of(capsys, "say").splitlines()]
    flags = [line for line in lines if line.startswith("--")]
    assert [line.split()[0] for line in flags] == list(SAY_FLAGS)
    for line in flags:
        assert SAY_FLAGS[line.split()[0]] in line
    (text,) = [line for line in lines if line.startswith("text ")]
    assert text.endswith("(default: standard input, synthesized as it arrives)")


@pytest.mark.parametrize(
    "arguments", [[], ["sing"], ["serve", "--por", "1"], ["say", "--seed", "x"]]
)
def test_wrong_usage_is_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: csm-trio")


# arguments, environment, what the line must name
FAULTS: list[tuple[list[str], dict[str, str], str]] = [
    (["serve", "--port", "80808"], {}, "--port"),
    (["serve", "--dtype", "f8"], {}, "--dtype"),
    (["serve", "--api-key", ""], {}, "--api-key"),
    (["serve"], {"CSM_POOL_SIZE": "many"}, "CSM_POOL_SIZE"),
    (["serve"], {"CSM_POOLSIZE": "4"}, "CSM_POOLSIZE"),
    (["voices"], {"CSM_NOTHING": ""}, "CSM_NOTHING"),
    (["serve", "--config", "missing.toml"], {}, "missing.toml"),
    (["serve"], {"CSM_CONFIG": "missing.toml"}, "missing.toml"),
    (["serve", "--config", "bad.toml"], {}, "bad.toml"),
    (["serve", "--config", "unknown.toml"], {}, "'pool'"),
    (["serve", "--cpu", "--device", "cuda"], {}, "--cpu"),
    (["serve", "--model-file", "q8.gguf"], {}, "--model-file"),
    (["voices", "--voices-file", "missing.json"], {}, "missing.json"),
    (["voices", "--voices-file", "bad.toml"], {}, "bad.toml"),
    (["serve", "--port", "0", "--voices-file", "missing.json"], {}, "missing.json"),
    (["serve", "--port", "0", "--weights-path", "missing.gguf"], {}, "missing.gguf"),
    (["serve", "--port", "0", "--weights-path", "bad.toml"], {}, "bad.toml"),
    (["serve", "--port", "0", "--weights-path", "empty"], {}, "empty"),
    (["serve", "--host", "192.0.2.1", "--port", "0"], {}, "192.0.2.1"),
]  # fmt: skip


@pytest.mark.usefixtures("quiet_logging")
@pytest.mark.parametrize(("arguments", "environment", "named"), FAULTS)
def test_a_startup_error_is_one_line_and_exit_code_1(
    arguments: list[str],
    environment: dict[str, str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.toml").write_text("pool_size = = 4")
    Path("unknown.toml").write_text("pool = 4")
    Path("empty").mkdir()
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    assert main(arguments) == 1
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert line.startswith("csm-trio: ")
    assert named in line
    assert shown.out == ""


@pytest.mark.usefixtures("quiet_logging")
def test_a_port_in_use_is_one_line_and_no_model_is_loaded_for_it(
    taken_port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[object] = []
    monkeypatch.setattr("csm_trio.engine.load.load_runner", loaded.append)
    assert main(["serve", "--host", "127.0.0.1", "--port", str(taken_port)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--port {taken_port}" in line
    assert loaded == []


def test_a_wrong_key_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--api-key", "s3cret with spaces"]) == 1
    assert "s3cret" not in capsys.readouterr().err


def test_voices_lists_what_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["voices"]) == 0
    ids = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert ids == ["default", "speaker_0", "speaker_1", "speaker_2", "speaker_3"]
    file = tmp_path / "voices.json"
    file.write_text('{"anna": {"speaker_id": 4, "name": "Anna B."}, "ben": 12}')
    assert main(["voices", "--voices-file", str(file)]) == 0
    assert capsys.readouterr().out == "anna\tspeaker 4\tAnna B.\nben\tspeaker 12\tben\n"


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_package_can_be_run_as_a_module() -> None:
    ended = run_python("-m", "csm_trio", "voices")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "\nspeaker_3\tspeaker 3\tspeaker_3\n" in ended.stdout


def test_a_real_process_fails_in_one_line() -> None:
    ended = run_python("-m", "csm_trio", "serve", "--port", "0", "--weights-path", "no/where")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "no/where" in line


@pytest.mark.parametrize(
    ("line", "restarts"),
    [
        (["serve", "--weights-path", "no/where"], 1),
        (["bench", "--engine", "--weights-path", "no/where"], 1),
        (["voices"], 0),
    ],
)
def test_only_a_command_with_an_engine_restarts_its_program(
    line: list[str], restarts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    restarted: list[None] = []
    monkeypatch.setattr(process_tuning, "restart_with_tuned_malloc", lambda: restarted.append(None))
    main(line)
    assert not restarted, "only the process' own command line"
    monkeypatch.setattr(sys, "argv", ["csm-trio", *line])
    main()
    assert len(restarted) == restarts


LIBRARIES_OF_THE_SERVER = (
    "torch",
    "numpy",
    "quart",
    "quart_trio",
    "hypercorn",
    "av",
    "soxr",
    "lameenc",
)


def test_say_imports_neither_the_server_nor_its_libraries() -> None:
    """torch takes seconds to import, and the server needs extras that a client may lack."""
    code = (
        "import sys\n"
        "from csm_trio.cli import main\n"
        "try: main(['say', '--help'])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    ended = run_python("-c", code)
    assert ended.returncode == 0
    modules = ended.stderr.split()
    own = [name for name in modules if name.startswith("csm_trio")]
    assert "csm_trio.say" in own
    assert len(own) <= 22, own
    assert not set(modules) & {*LIBRARIES_OF_THE_SERVER, "csm_trio.server", "csm_trio.config"}


@pytest.mark.parametrize("command", ["voices", "bench"])
def test_the_help_of_a_command_without_a_device_does_not_import_torch(command: str) -> None:
    code = (
        "import sys\n"
        "from csm_trio.cli import main\n"
        f"try: main([{command!r}, '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert run_python("-c", code).returncode == 0


async def run_say(
    port: int, *arguments: str, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "csm_trio", "say", "--url", f"http://127.0.0.1:{port}"]
    with trio.fail_after(30):
        return await trio.run_process(
            [*command, *arguments],
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )


async def test_say_synthesizes_through_a_running_server(tmp_path: Path) -> None:
    runner = SineRunner()
    out = tmp_path / "speech.wav"
    async with serving(lambda: runner) as server:
        ended = await run_say(
            server.port, "Hello there. How are you?", "--out", str(out), "--voice", "speaker_2",
            "--top-k", "1",
        )  # fmt: skip
    assert ended.returncode == 0
    assert [one.text for one in runner.opened] == ["Hello there.", "How are you?"]
    assert {(one.speaker_id, one.sampling.top_k) for one in runner.opened} == {(2, 1)}
    samples, rate_hz = read_wav(out.read_bytes())
    assert rate_hz == 24_000
    assert samples.tobytes() == sine_speech(runner.opened, "pcm_24000")
    summary = ended.stderr.decode().splitlines()[-1]
    assert summary.startswith("first audio ")
    assert "audio 0.80 s | real-time factor " in summary


async def test_say_synthesizes_standard_input_to_standard_output() -> None:
    runner = SineRunner()
    async with serving(lambda: runner) as server:
        ended = await run_say(
            server.port, "--out", "-", "--format", "ulaw_8000", stdin=b"One two.\nThree four.\n"
        )
    assert ended.returncode == 0
    assert ended.stdout == sine_speech(runner.opened, "ulaw_8000")


async def test_say_reports_a_failure_in_one_line() -> None:
    config = Config(server=TEST_SERVER)
    async with serving(SineRunner, config) as server:
        ended = await run_say(server.port, "Hello.", "--voice", "nobody", "--out", "-")
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert ended.stderr == b"csm-trio say: A voice with voice_id nobody does not exist.\n"
