"""Settings: every source, their order, and errors that say where to look."""

import argparse
from pathlib import Path

import pytest

from csm_trio.config import (
    SETTINGS,
    Config,
    EngineConfig,
    ServerConfig,
    SpeechConfig,
    add_flags,
    load_config,
)
from csm_trio.errors import StartupError
from csm_trio.setting_types import SWITCH


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="csm-trio", allow_abbrev=False)
    add_flags(parser)
    return parser


def load(*argv: str, **environ: str) -> Config:
    return load_config(vars(parser().parse_args(argv)), environ)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "server.toml"


# flag, text, section, field, value
EXAMPLES = [
    ("--host", "::1", "server", "host", "::1"),
    ("--port", "0", "server", "port", 0),
    ("--agent-port", "8090", "server", "agent_port", 8090),
    ("--api-key", "s3cret", "server", "api_key", "s3cret"),
    ("--api-keys-file", "keys.json", "server", "api_keys_file", Path("keys.json")),
    ("--path-prefix", "/speech/tts/", "server", "path_prefix", "/speech/tts"),
    (
        "--cors-origin",
        "https://App.example:443/, http://[::1]:8080",
        "server",
        "cors_origins",
        ("https://app.example", "http://[::1]:8080"),
    ),
    ("--pool-size", "8", "engine", "pool_size", 8),
    ("--max-sessions", "20", "server", "max_sessions", 20),
    ("--device", "cuda:1", "engine", "device", "cuda:1"),
    ("--dtype", "BF16", "engine", "dtype", "bf16"),
    ("--model-id", "sesame/csm-1b", "engine", "model_id", "sesame/csm-1b"),
    ("--weights-path", "/models/q8.gguf", "engine", "weights_path", Path("/models/q8.gguf")),
    ("--voices-file", "voices.json", "speech", "voices_file", Path("voices.json")),
    ("--data-dir", "data", "speech", "data_dir", Path("data")),
    ("--max-voices", "5", "speech", "max_voices", 5),
    ("--rest-max-audio-len-ms", "80", "speech", "rest_max_audio_len_ms", 80),
    ("--ws-max-audio-len-ms", "600000", "speech", "ws_max_audio_len_ms", 600_000),
    ("--buffer-size", "4", "speech", "buffer_size", 4),
    ("--history-sentences", "0", "speech", "history_sentences", 0),
    ("--alignment", "OFF", "speech", "alignment", "off"),
    ("--max-text-chars", "500", "speech", "max_text_chars", 500),
    ("--max-pending-chars", "900", "speech", "max_pending_chars", 900),
    ("--low-water-s", "0.25", "engine", "low_water_s", 0.25),
    ("--high-water-s", "5", "engine", "high_water_s", 5.0),
    ("--stall-timeout-s", "2.5", "speech", "stall_timeout_s", 2.5),
    ("--drain-s", "0", "server", "drain_s", 0.0),
    ("--admission-wait-ms", "0", "server", "admission_wait_ms", 0),
    ("--log-format", "json", "config", "log_format", "json"),
    ("--max-positions", "512", "engine", "max_positions", 512),
    (
        "--random-weights",
        "sesame/csm-1b-size",
        "engine",
        "random_weights",
        "sesame/csm-1b-size",
    ),
    ("--workers", "2", "server", "workers", 2),
    ("--log-level", "DEBUG", "config", "log_level", "debug"),
    ("--log-texts", "true", "speech", "log_texts", True),
    ("--otlp-endpoint", "http://otel:4318", "config", "otlp_endpoint", "http://otel:4318"),
    ("--no-playground", "true", "server", "playground", False),
]
WITH_OTHERS = {"--cpu", "--model-file", "--allow-voice-upload", "--tls-cert", "--tls-key"}
SWITCHES = {setting.flag for setting in SETTINGS if setting.value_type is SWITCH}


def read(config: Config, section: str, field: str) -> object:
    return getattr(config if section == "config" else getattr(config, section), field)


def variable(flag: str) -> str:
    return "CSM_" + flag[2:].replace("-", "_").upper()


def test_nothing_set_is_the_defaults() -> None:
    assert load() == Config(ServerConfig(), EngineConfig(), SpeechConfig(), "info")


def test_the_examples_cover_every_setting() -> None:
    covered = {flag for flag, *_ in EXAMPLES} | WITH_OTHERS
    assert covered == {setting.flag for setting in SETTINGS}


@pytest.mark.parametrize(("flag", "text", "section", "field", "value"), EXAMPLES)
def test_a_setting_is_read_from_flag_environment_and_file(
    toml: Path, flag: str, text: str, section: str, field: str, value: object
) -> None:
    for key in (flag[2:], flag[2:].replace("-", "_")):
        toml.write_text(f'{key} = "{text}"')
        assert read(load("--config", str(toml)), section, field) == value
    argv = (flag,) if flag in SWITCHES else (flag, text)
    assert read(load(*argv), section, field) == value
    assert read(load(**{variable(flag): text}), section, field) == value


def test_voices_are_uploaded_into_a_data_directory_only(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="--allow-voice-upload needs --data-dir"):
        load("--allow-voice-upload")
    assert load("--allow-voice-upload", "--data-dir", str(tmp_path)).speech.voice_upload


def test_a_certificate_needs_its_key() -> None:
    for flag in ("--tls-cert", "--tls-key"):
        with pytest.raises(StartupError, match="need each other"):
            load(flag, "one.pem")
    server = load("--tls-cert", "one.pem", "--tls-key", "two.pem").server
    assert (server.tls_cert, server.tls_key) == (Path("one.pem"), Path("two.pem"))


def test_every_origin_is_the_default() -> None:
    assert load("--cors-origin", "*").server == ServerConfig()


def test_the_agent_port_is_a_port_of_its_own() -> None:
    with pytest.raises(StartupError, match="--agent-port must differ"):
        load("--agent-port", "8080")
    assert load("--agent-port", "8080", "--port", "80").server.agent_port == 8080


def test_flag_over_environment_over_file_over_default(toml: Path) -> None:
    toml.write_text("port = 1\nbuffer-size = 2\nhistory_sentences = 3\n")
    config = load("--port", "11", CSM_PORT="21", CSM_BUFFER_SIZE="22", CSM_CONFIG=str(toml))
    assert config.server.port == 11
    assert config.speech.buffer_size == 22
    assert config.speech.history_sentences == 3
    assert config.speech.max_text_chars == SpeechConfig().max_text_chars


def test_the_config_flag_goes_before_its_variable(toml: Path) -> None:
    toml.write_text("port = 1")
    assert load("--config", str(toml), CSM_CONFIG="/nowhere.toml").server.port == 1


def test_toml_numbers_and_truths_need_no_quotes(toml: Path) -> None:
    toml.write_text("pool-size = 8\nstall-timeout-s = 2\ndrain-s = 1.5\ncpu = true\n")
    config = load("--config", str(toml))
    assert (config.engine.pool_size, config.engine.device) == (8, "cpu")
    assert (config.speech.stall_timeout_s, config.server.drain_s) == (2.0, 1.5)


def test_auto_undoes_a_number(toml: Path) -> None:
    toml.write_text("pool-size = 8\nmax-sessions = 9\n")
    config = load("--pool-size", "auto", CSM_CONFIG=str(toml), CSM_MAX_SESSIONS="auto")
    assert (config.engine.pool_size, config.server.max_sessions) == (None, None)


def test_an_empty_variable_counts_as_unset() -> None:
    assert load(CSM_API_KEY="", CSM_PORT="", CSM_CONFIG="") == Config()


def test_other_programs_variables_are_none_of_ours() -> None:
    assert load(PATH="/bin", CUDA_VISIBLE_DEVICES="0") == Config()


def test_kubernetes_service_links_are_none_of_ours() -> None:
    assert load(CSM_TRIO_PORT="tcp://10.0.0.1:8080", CSM_TRIO_SERVICE_HOST="10.0.0.1") == Config()


def test_a_home_directory_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/vera")
    assert load(CSM_WEIGHTS_PATH="~/csm").engine.weights_path == Path("/home/vera/csm")


def test_cpu_is_short_for_device_cpu() -> None:
    assert load("--cpu").engine.device == "cpu"
    assert load(CSM_CPU="1").engine.device == "cpu"
    assert load(CSM_CPU="false").engine.device == "auto"
    assert load("--cpu", "--device", "cpu").engine.device == "cpu"


def test_a_switch_that_is_off_changes_nothing(toml: Path) -> None:
    toml.write_text("no-playground = false")
    assert load(CSM_CONFIG=str(toml)) == load(CSM_NO_PLAYGROUND="0") == Config()


def test_cpu_and_device_follow_the_order_of_sources() -> None:
    assert load("--cpu", CSM_DEVICE="cuda").engine.device == "cpu"
    assert load("--device", "cuda", CSM_CPU="1").engine.device == "cuda"


def test_cpu_and_another_device_contradict_each_other() -> None:
    with pytest.raises(StartupError, match="--device and --cpu contradict"):
        load("--cpu", "--device", "cuda")
    with pytest.raises(StartupError, match="CSM_DEVICE and CSM_CPU contradict"):
        load(CSM_CPU="true", CSM_DEVICE="mps")


def test_a_model_file_needs_its_repository() -> None:
    with pytest.raises(StartupError, match="--model-id"):
        load("--model-file", "q8.gguf")
    config = load("--model-file", "q8.gguf", CSM_MODEL_ID="sesame/csm-1b")
    assert config.engine.model_file == "q8.gguf"


BAD_VALUES = [
    ("--host", "two words"),
    ("--port", "65536"),
    ("--port", "-1"),
    ("--port", "8080.0"),
    ("--pool-size", "0"),
    ("--pool-size", "many"),
    ("--pool-size", "٣"),
    ("--pool-size", "9" * 5000),
    ("--max-sessions", "0"),
    ("--device", "tpu"),
    ("--device", "cuda:"),
    ("--dtype", "f64"),
    ("--rest-max-audio-len-ms", "79"),
    ("--buffer-size", "251"),
    ("--history-sentences", "-1"),
    ("--max-text-chars", "80001"),
    ("--stall-timeout-s", "0"),
    ("--stall-timeout-s", "nan"),
    ("--drain-s", "1e3"),
    ("--log-level", "loud"),
    *(("--path-prefix", text) for text in ("/", "tts", "/a//b", "/a/../b", "/ä", "/a?b")),
    *(("--cors-origin", text) for text in ("null", "a.org", "https://a/b", "https://a,", "*,")),
    ("--cors-origin", "https://a:65536"),
]


@pytest.mark.parametrize(("flag", "text"), BAD_VALUES)
def test_a_bad_value_is_named_with_its_source(toml: Path, flag: str, text: str) -> None:
    toml.write_text(f'{flag[2:]} = "{text}"')
    sources: list[tuple[str, dict[str, object], dict[str, str]]] = [
        (f"{flag}: ", {flag[2:].replace("-", "_"): text}, {}),
        (f"{variable(flag)}: ", {}, {variable(flag): text}),
        (f"{toml}, key '{flag[2:]}': ", {"config": str(toml)}, {}),
    ]
    for source, flags, environ in sources:
        with pytest.raises(StartupError) as caught:
            load_config(flags, environ)
        assert str(caught.value).startswith(f"{source}{text!r} is not ")


@pytest.mark.parametrize(
    "line", ["port = true", "port = 1.0", "host = 5", "cpu = 1", "dtype = ['f32']", "port = {}"]
)
def test_a_toml_value_of_the_wrong_type_is_named(toml: Path, line: str) -> None:
    toml.write_text(line)
    with pytest.raises(StartupError, match=rf"key '{line.split()[0]}': .* is not "):
        load(CSM_CONFIG=str(toml))


def test_an_unknown_key_is_named(toml: Path) -> None:
    for content, key in [("prot = 1", "prot"), ("[server]\nport = 1", "server")]:
        toml.write_text(content)
        with pytest.raises(StartupError, match=f"unknown key '{key}'"):
            load(CSM_CONFIG=str(toml))
    with pytest.raises(StartupError, match="CSM_PROT"):
        load(CSM_PROT="1")


def test_a_key_in_both_spellings_is_refused(toml: Path) -> None:
    toml.write_text("pool-size = 1\npool_size = 2\n")
    with pytest.raises(StartupError, match="twice"):
        load(CSM_CONFIG=str(toml))


def test_a_file_that_cannot_be_read_is_named(toml: Path) -> None:
    with pytest.raises(StartupError, match=r"server\.toml cannot be read: No such file"):
        load("--config", str(toml))
    toml.write_text("port = = 1")
    with pytest.raises(StartupError, match=r"server\.toml is not valid TOML"):
        load("--config", str(toml))


def test_the_api_key_is_never_shown() -> None:
    assert "s3cret" not in repr(load("--api-key", "s3cret"))
    for bad in ("s3 cret", "s3crét"):
        with pytest.raises(StartupError, match=r"^--api-key: the value given is not ") as caught:
            load("--api-key", bad)
        assert bad not in str(caught.value)


def test_an_empty_api_key_flag_does_not_switch_authentication_off() -> None:
    with pytest.raises(StartupError, match="--api-key"):
        load("--api-key", "")


def test_help_states_unit_and_default_of_every_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    text = parser().format_help()
    for setting in SETTINGS:
        assert f"{setting.flag} " in text
        assert f"{setting.help_line}\n" in text
    assert "(unit: ms; default: 10000)" in text
    assert "(unit: slots; default: auto, what the device holds)" in text
    assert "(unit: true or false; default: false)" in text


@pytest.mark.parametrize("other", ["--model-id", "--weights-path"])
def test_noise_and_a_model_are_not_served_at_once(other: str) -> None:
    name = "CSM_" + other[2:].replace("-", "_").upper()
    with pytest.raises(StartupError, match="--random-weights"):
        load(CSM_RANDOM_WEIGHTS="sesame/csm-1b-size", **{name: "some/model"})
