"""Every setting of the server on one page: flags, environment and TOML in, a `Config` out.

Reads the TOML file named by `--config` and nothing else; each layer gets only its own section.
"""

import argparse
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from csm_trio.errors import StartupError
from csm_trio.named_files import read_file
from csm_trio.setting_types import (
    ORIGINS,
    SWITCH,
    URL_PATH,
    ValueType,
    choice,
    pattern,
    read_path,
    seconds,
    whole,
)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The listening socket, TLS, the API keys, admission control and origins of browsers.

    `max_sessions` None is the number of slots; `workers` None is 0 on a CPU, and on CUDA a number
    that fits the slots and cores. `playground` is whether `GET /` serves the page. `path_prefix`
    has no slash at its end. `cors_origins` None is every origin.
    `agent_port` is that of HAProxy's agent check.
    """

    host: str = "0.0.0.0"
    port: int = 8080
    agent_port: int | None = None
    api_key: str | None = field(default=None, repr=False)
    api_keys_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    path_prefix: str | None = None
    cors_origins: tuple[str, ...] | None = None
    max_sessions: int | None = None
    workers: int | None = None
    drain_s: float = 30.0
    admission_wait_ms: int = 500
    playground: bool = True
    max_body_bytes: int = 1 << 20
    max_message_bytes: int = 1 << 18
    # TCP_USER_TIMEOUT of Linux: time for which sent bytes may stay unacknowledged.
    user_timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The model, the device and the playback buffer; without a model the embedded voice is served.

    `device` is `auto`, `cpu`, `mps`, `cuda` or `cuda:N`; `dtype` is `auto`, `f32`, `f16`,
    `bf16` or, on a CPU, `int8` or `int4`. `pool_size` None is as many slots as the device holds,
    `max_positions` None as many positions as the model has. `random_weights` names the sizes of a
    model with random weights, used instead of a checkpoint. Below `low_water_s` of playback
    buffer a row is urgent, above `high_water_s` it waits for urgent ones.
    """

    pool_size: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    model_id: str | None = None
    model_file: str | None = None
    weights_path: Path | None = None
    max_positions: int | None = None
    random_weights: str | None = None
    low_water_s: float = 0.5
    high_water_s: float = 3.0


@dataclass(frozen=True, slots=True)
class SpeechConfig:
    """Voices, text, history and limits of the generated speech; a frame is 80 ms.

    `data_dir` keeps added voices; with `voice_upload` clients may add, change and delete them, up
    to `max_voices`.

    `kept_*` bound the request history: past requests that a later request may name. `log_texts`
    is whether the log may hold what clients send to be spoken.
    """

    voices_file: Path | None = None
    data_dir: Path | None = None
    voice_upload: bool = False
    max_voices: int = 1000
    rest_max_audio_len_ms: int = 10_000
    ws_max_audio_len_ms: int = 30_000
    buffer_size: int = 1
    history_sentences: int = 1
    alignment: str = "on"
    max_text_chars: int = 10_000
    max_pending_chars: int = 20_000
    stall_timeout_s: float = 10.0
    kept_requests: int = 256
    kept_bytes: int = 32 << 20
    kept_s: float = 1800.0
    log_texts: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """All sections; only `cli` and `server` see the whole."""

    server: ServerConfig = ServerConfig()
    engine: EngineConfig = EngineConfig()
    speech: SpeechConfig = SpeechConfig()
    log_level: str = "info"
    log_format: str = "text"
    otlp_endpoint: str | None = None


_PATH = ValueType("a path", read_path)
_NAME = pattern("a name without spaces", r"[^\s\0]+")
_KEY = pattern("printable ASCII without spaces, and not empty", r"[!-~]+")
_DEVICE = pattern("auto, cpu, mps, cuda or cuda:N", r"auto|cpu|mps|cuda(:[0-9]{1,3})?")
# No user or password: those go into OTEL_EXPORTER_OTLP_HEADERS.
_URL = pattern("a URL http://HOST[:PORT][/PATH]", r"https?://[^\s/?#@]+(/[^\s?#@]*)?")
_AUDIO_LEN = whole(80, 600_000)

Section = Literal["server", "engine", "speech", "config"]
_SECTIONS: dict[str, Callable[[], object]] = {
    "server": ServerConfig,
    "engine": EngineConfig,
    "speech": SpeechConfig,
    "config": Config,
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its field of `Config`, the type of its value and its text in `--help`.

    `unset` describes a default of None; a `secret` value is never shown. `switched_to` is what a
    switch that is on sets its field to.
    """

    flag: str
    section: Section
    field: str
    value_type: ValueType
    unit: str
    help: str
    unset: str = "unset"
    secret: bool = False
    switched_to: object = True

    @property
    def key(self) -> str:
        """The name in TOML and, in capitals after `CSM_`, in the environment."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def environment_name(self) -> str:
        """The environment variable of this setting."""
        return f"CSM_{self.key.upper()}"

    @property
    def default(self) -> object:
        """The value when no source sets it."""
        return getattr(_SECTIONS[self.section](), self.field)

    @property
    def help_line(self) -> str:
        """The text for `--help`: meaning, unit and default."""
        default = self.unset if self.default is None or self.value_type is SWITCH else self.default
        return f"{self.help} (unit: {self.unit}; default: {default})"


# max_text_chars must fit into max_body_bytes as `\uXXXX\uXXXX` pairs of 12 bytes each.
SETTINGS: tuple[Setting, ...] = (
    Setting("--host", "server", "host", _NAME, "address", "address to listen on"),
    Setting(
        "--port", "server", "port", whole(0, 65_535), "port number",
        "port to listen on; 0 takes any free port",
    ),
    Setting(
        "--agent-port", "server", "agent_port", whole(1, 65_535), "port number",
        "port that answers HAProxy's agent check with the free share of sessions and slots",
    ),
    Setting(
        "--api-key", "server", "api_key", _KEY, "text", "API key that clients must send",
        secret=True,
    ),
    Setting(
        "--api-keys-file", "server", "api_keys_file", _PATH, "path",
        "JSON file of more API keys, read again when it changes",
    ),
    Setting(
        "--tls-cert", "server", "tls_cert", _PATH, "path",
        "PEM file of the certificate and its chain: serve https: and wss:; needs --tls-key",
    ),
    Setting(
        "--tls-key", "server", "tls_key", _PATH, "path",
        "PEM file of the certificate's private key; may be the file of --tls-cert",
    ),
    Setting(
        "--path-prefix", "server", "path_prefix", URL_PATH, "URL path",
        "path below which every endpoint is served, behind a proxy that does not remove it",
    ),
    Setting(
        "--cors-origin", "server", "cors_origins", ORIGINS, "origins",
        "origins of pages that may use the server, with commas between them", "*, every origin",
    ),
    Setting(
        "--pool-size", "engine", "pool_size", whole(1, 1024, or_auto=True), "slots",
        "slots: utterances generated at once by continuous batching",
        "auto, what the device holds",
    ),
    Setting(
        "--max-sessions", "server", "max_sessions", whole(1, 1_000_000, or_auto=True), "sessions",
        "sessions (sockets and HTTP requests) admitted at once", "auto, the pool size",
    ),
    Setting(
        "--workers", "server", "workers", whole(0, 64, or_auto=True), "processes",
        "worker processes for sockets, text and encoding; 0 serves everything in one process",
        "auto, 0 on a CPU, 1 to 8 on CUDA",
    ),
    Setting(
        "--admission-wait-ms", "server", "admission_wait_ms", whole(0, 60_000), "ms",
        "time for which a request may wait for a session on a full server before it is refused",
    ),
    Setting(
        "--no-playground", "server", "playground", SWITCH, "true or false",
        "do not serve the playground, the page at /", "false", switched_to=False,
    ),
    Setting(
        "--cpu", "engine", "device", SWITCH, "true or false", "same as --device cpu", "false",
        switched_to="cpu",
    ),
    Setting(
        "--device", "engine", "device", _DEVICE, "device name",
        "cpu, mps, cuda or cuda:N; auto takes CUDA, then MPS, then CPU",
    ),
    Setting(
        "--dtype", "engine", "dtype",
        choice("auto", "f32", "f16", "bf16", "int8", "int4"), "number format",
        "f32, f16, bf16 or, on a CPU, int8 or int4; auto is bf16 on CUDA, f32 elsewhere",
    ),
    Setting(
        "--model-id", "engine", "model_id", _NAME, "Hugging Face Hub id",
        "model to serve, downloaded on first use", "unset, the embedded voice",
    ),
    Setting(
        "--model-file", "engine", "model_file", _NAME, "file name",
        "one file of the --model-id repository",
    ),
    Setting(
        "--weights-path", "engine", "weights_path", _PATH, "path",
        "local .safetensors, .gguf or model directory; overrides --model-id",
    ),
    Setting(
        "--max-positions", "engine", "max_positions", whole(64, 1 << 20), "positions",
        "KV cache of a slot: prompt and generated frames together; 12.5 frames are a second",
        "unset, the model's own maximum",
    ),
    Setting(
        "--random-weights", "engine", "random_weights", choice("sesame/csm-1b-size"), "sizes",
        "random weights of sesame/csm-1b-size instead of a model, to measure a device",
    ),
    Setting(
        "--low-water-s", "engine", "low_water_s", seconds(0, 60), "s",
        "low water of the playback buffer: a session below it has priority",
    ),
    Setting(
        "--high-water-s", "engine", "high_water_s", seconds(0, 600), "s",
        "high water of the playback buffer: a session above it waits for those below low water",
    ),
    Setting(
        "--voices-file", "speech", "voices_file", _PATH, "path", "JSON file of voice ids",
        "unset, the voices default and speaker_0 to speaker_3",
    ),
    Setting(
        "--data-dir", "speech", "data_dir", _PATH, "path",
        "directory of added voices and of edited voice settings", "unset, none are kept",
    ),
    Setting(
        "--allow-voice-upload", "speech", "voice_upload", SWITCH, "true or false",
        "let clients add, change and delete voices; needs --data-dir", "false",
    ),
    Setting(
        "--max-voices", "speech", "max_voices", whole(1, 100_000), "voices",
        "added voices that are kept at most",
    ),
    Setting(
        "--rest-max-audio-len-ms", "speech", "rest_max_audio_len_ms", _AUDIO_LEN, "ms",
        "max audio of one generation over HTTP, unless the request sets it",
    ),
    Setting(
        "--ws-max-audio-len-ms", "speech", "ws_max_audio_len_ms", _AUDIO_LEN, "ms",
        "max audio of one generation on a socket, unless the session sets it",
    ),
    Setting(
        "--buffer-size", "speech", "buffer_size", whole(1, 250), "frames of 80 ms",
        "frames in the first frame batch of an utterance, unless the session sets it",
    ),
    Setting(
        "--history-sentences", "speech", "history_sentences", whole(0, 64), "sentences",
        "past sentences of a context that precede the next one in its prompt",
    ),
    Setting(
        "--alignment", "speech", "alignment", choice("on", "off"), "on or off",
        "timestamps of the spoken characters, by estimate; off sends null",
    ),
    Setting(
        "--max-text-chars", "speech", "max_text_chars", whole(1, 80_000), "characters",
        "max text of one HTTP request",
    ),
    Setting(
        "--max-pending-chars", "speech", "max_pending_chars", whole(1, 10_000_000), "characters",
        "max text that may wait on a socket to be generated",
    ),
    Setting(
        "--stall-timeout-s", "speech", "stall_timeout_s", seconds(0.1, 3600), "s",
        "time for which a client may read no audio before its session is cancelled",
    ),
    Setting(
        "--drain-s", "server", "drain_s", seconds(0, 3600), "s",
        "drain: time for open sessions to end after SIGTERM",
    ),
    Setting(
        "--log-level", "config", "log_level", choice("debug", "info", "warning", "error"),
        "level", "lowest level that is logged: debug, info, warning or error",
    ),
    Setting(
        "--log-format", "config", "log_format", choice("text", "json"), "format",
        "text, or one JSON object a line",
    ),
    Setting(
        "--log-texts", "speech", "log_texts", SWITCH, "true or false",
        "log each sentence that is generated, and the messages of exceptions", "false",
    ),
    Setting(
        "--otlp-endpoint", "config", "otlp_endpoint", _URL, "URL",
        "OpenTelemetry collector to send traces to (OTLP over HTTP); needs csm-trio[otel]",
        "unset, OTEL_EXPORTER_OTLP_ENDPOINT",
    ),
)  # fmt: skip

_BY_KEY = {setting.key: setting for setting in SETTINGS}
# Kubernetes sets CSM_TRIO_PORT and the like for a Service named csm-trio.
_SERVICE_LINKS = "CSM_TRIO_"
_MAX_FILE_BYTES = 1 << 20
_CONFIG_FLAG, _CONFIG_VARIABLE = "--config", "CSM_CONFIG"

# (section, field) -> value
_Values = dict[tuple[str, str], object]


def add_flags(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    settings: Iterable[Setting] = SETTINGS,
) -> None:
    """Add a flag for each of the `settings`, and `--config`; values stay text, absent ones None."""
    parser.add_argument(
        _CONFIG_FLAG, metavar="FILE", help="TOML file of settings (unit: path; default: unset)"
    )
    for setting in settings:
        if setting.value_type is SWITCH:
            # The parser's own default (None) says whether an absent flag is noted.
            default = getattr(parser, "argument_default", None)
            parser.add_argument(
                setting.flag, action="store_true", default=default, help=setting.help_line
            )
        else:
            metavar = setting.flag.rpartition("-")[2].upper()
            parser.add_argument(setting.flag, metavar=metavar, help=setting.help_line)


def load_config(flags: Mapping[str, object], environ: Mapping[str, str]) -> Config:
    """Compose the configuration: flags over environment over file over defaults.

    `flags` are the parsed arguments by name, as `add_flags` makes them; others are ignored.
    An environment variable that is set but empty counts as unset. Raises `StartupError` for an
    unknown key or a bad value, naming its source.
    """
    from_environ = _from_environ(environ)
    path = flags.get("config") or environ.get(_CONFIG_VARIABLE)
    from_file = _from_file(Path(str(path))) if path else {}
    values = {**from_file, **from_environ, **_from_flags(flags)}
    sections: dict[str, dict[str, Any]] = {name: {} for name in _SECTIONS}
    for (section, name), value in values.items():
        sections[section][name] = value
    config = Config(
        server=ServerConfig(**sections["server"]),
        engine=EngineConfig(**sections["engine"]),
        speech=SpeechConfig(**sections["speech"]),
        **sections["config"],
    )
    if config.engine.model_file is not None and config.engine.model_id is None:
        raise StartupError("--model-file names a file of a repository; it needs --model-id.")
    if config.engine.random_weights is not None and (
        config.engine.model_id is not None or config.engine.weights_path is not None
    ):
        raise StartupError("--random-weights replaces a model: omit --model-id and --weights-path.")
    if (config.server.tls_cert is None) != (config.server.tls_key is None):
        raise StartupError("--tls-cert and --tls-key need each other.")
    if config.server.agent_port is not None and config.server.agent_port == config.server.port:
        raise StartupError("--agent-port must differ from --port.")
    if config.speech.voice_upload and config.speech.data_dir is None:
        raise StartupError("--allow-voice-upload needs --data-dir, where voices are kept.")
    return config


def _from_flags(flags: Mapping[str, object]) -> _Values:
    return _collect(
        (setting.flag, setting, flags[setting.key])
        for setting in SETTINGS
        if flags.get(setting.key) is not None
    )


def _from_environ(environ: Mapping[str, str]) -> _Values:
    known = {setting.environment_name: setting for setting in SETTINGS}
    for name in environ:
        if not name.startswith("CSM_") or name.startswith(_SERVICE_LINKS):
            continue
        if name not in known and name != _CONFIG_VARIABLE:
            raise StartupError(f"The environment variable {name} is not a setting of this server.")
    return _collect(
        (name, setting, environ[name]) for name, setting in known.items() if environ.get(name)
    )


def _from_file(path: Path) -> _Values:
    data = read_file(path, max_bytes=_MAX_FILE_BYTES, name=f"The settings file {path}")
    try:
        table = tomllib.loads(data.decode())
    except RecursionError:
        raise StartupError(f"The settings file {path} is nested too deeply.") from None
    except ValueError as error:
        raise StartupError(f"The settings file {path} is not valid TOML: {error}.") from None
    found: dict[str, tuple[str, Setting, object]] = {}
    for key, value in table.items():
        setting = _BY_KEY.get(key.replace("-", "_"))
        if setting is None:
            raise StartupError(f"The settings file {path} has an unknown key {key!r}.")
        if setting.key in found:
            raise StartupError(f"The settings file {path} sets {setting.key!r} twice.")
        found[setting.key] = (f"{path}, key {key!r}", setting, value)
    return _collect(found.values())


def _collect(source: Iterable[tuple[str, Setting, object]]) -> _Values:
    """Read the values of one source; raises where two of its keys contradict each other."""
    values: _Values = {}
    origins: dict[tuple[str, str], str] = {}
    for origin, setting, raw in source:
        value = _read(origin, setting, raw)
        if setting.value_type is SWITCH:
            if value is False:
                continue
            value = setting.switched_to
        target = (setting.section, setting.field)
        if target in values and values[target] != value:
            raise StartupError(
                f"{origin} and {origins[target]} contradict each other: "
                f"{value!r} and {values[target]!r}."
            )
        values[target], origins[target] = value, origin
    return values


def _read(origin: str, setting: Setting, raw: object) -> object:
    value_type = setting.value_type
    shown = "the value given" if setting.secret else repr(raw)
    # A flag without a value is True; bool is a subclass of int, but a TOML true is no number.
    writable = type(raw) in value_type.toml
    try:
        if not writable:
            raise ValueError
        return value_type.read(str(raw))
    except ValueError:
        raise StartupError(f"{origin}: {shown} is not {value_type.expected}.") from None


def settings_table(settings: Iterable[Setting] = SETTINGS) -> str:
    """Return a Markdown table of the `settings`, one row each, as docs/configuration.md has it."""
    lines = [
        "| flag | environment variable | TOML key | default | values | unit | meaning |",
        "|---|---|---|---|---|---|---|",
    ]
    for setting in settings:
        default = setting.help_line.rpartition("default: ")[2].removesuffix(")")
        lines.append(
            f"| `{setting.flag}` | `{setting.environment_name}` | `{setting.key.replace('_', '-')}`"
            f" | {default} | {setting.value_type.expected} | {setting.unit} | {setting.help} |"
        )
    return "\n".join(lines) + "\n"
