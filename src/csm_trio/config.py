"""Every setting of the server on one page: flags, environment and TOML in, a `Config` out.

Reads the TOML file it is pointed to and nothing else; each room gets its section only.
"""

import argparse
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from csm_trio.errors import StartupError
from csm_trio.setting_types import SWITCH, ValueType, choice, pattern, read_path, seconds, whole


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The doors. `max_sessions` None means as many as the pool has slots."""

    host: str = "0.0.0.0"
    port: int = 8080
    api_key: str | None = field(default=None, repr=False)
    max_sessions: int | None = None
    drain_s: float = 30.0
    max_body_bytes: int = 1 << 20
    max_message_bytes: int = 1 << 20
    # Linux's TCP_USER_TIMEOUT: how long sent bytes may go unacknowledged.
    user_timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The model and the device; no model named means the embedded voice.

    `device` is `auto`, `cpu`, `mps`, `cuda` or `cuda:N`; `dtype` is `auto`, `f32`, `f16`,
    `bf16` or, on a CPU, `int8`. `pool_size` None means as many slots as the device can hold,
    `max_positions` None as many as the model has. `random_weights` names sizes to fill with noise
    instead of a model.
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
    """What is spoken and how much of it; a frame is 80 ms.

    `kept_*` bound what is remembered of requests that a later one may name as its past.
    """

    voices_file: Path | None = None
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


@dataclass(frozen=True, slots=True)
class Config:
    """All of it; only `cli` sees the whole."""

    server: ServerConfig = ServerConfig()
    engine: EngineConfig = EngineConfig()
    speech: SpeechConfig = SpeechConfig()
    log_level: str = "info"


_PATH = ValueType("a path", read_path)
_NAME = pattern("a name without spaces", r"[^\s\0]+")
_KEY = pattern("printable ASCII without spaces, and not empty", r"[!-~]+")
_DEVICE = pattern("auto, cpu, mps, cuda or cuda:N", r"auto|cpu|mps|cuda(:[0-9]{1,3})?")
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
    """One setting: where it lives in `Config`, how it is read, what `--help` says of it.

    `unset` describes a default of None; a `secret` value is never shown.
    """

    flag: str
    section: Section
    field: str
    value_type: ValueType
    unit: str
    help: str
    unset: str = "unset"
    secret: bool = False

    @property
    def key(self) -> str:
        """The name in TOML and, in capitals after `CSM_`, in the environment."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def environment_name(self) -> str:
        """The environment variable that holds it."""
        return f"CSM_{self.key.upper()}"

    @property
    def default(self) -> object:
        """The value where no one sets it."""
        return getattr(_SECTIONS[self.section](), self.field)

    @property
    def help_line(self) -> str:
        """What it is, its unit and its default."""
        default = self.unset if self.default is None or self.value_type is SWITCH else self.default
        return f"{self.help} (unit: {self.unit}; default: {default})"


# max_text_chars stays below what max_body_bytes holds of `\uXXXX\uXXXX` pairs, 12 bytes each.
SETTINGS: tuple[Setting, ...] = (
    Setting("--host", "server", "host", _NAME, "address", "address to listen on"),
    Setting(
        "--port", "server", "port", whole(0, 65_535), "port number",
        "port to listen on; 0 takes any free one",
    ),
    Setting(
        "--api-key", "server", "api_key", _KEY, "text", "key that callers must show", secret=True
    ),
    Setting(
        "--pool-size", "engine", "pool_size", whole(1, 1024, or_auto=True), "slots",
        "utterances generated at once over one copy of the weights", "auto, what the device holds",
    ),
    Setting(
        "--max-sessions", "server", "max_sessions", whole(1, 1_000_000, or_auto=True), "calls",
        "calls admitted at once", "auto, the pool size",
    ),
    Setting("--cpu", "engine", "device", SWITCH, "true or false", "same as --device cpu", "false"),
    Setting(
        "--device", "engine", "device", _DEVICE, "device name",
        "cpu, mps, cuda or cuda:N; auto takes CUDA, then MPS, then CPU",
    ),
    Setting(
        "--dtype", "engine", "dtype", choice("auto", "f32", "f16", "bf16", "int8"), "number format",
        "f32, f16, bf16 or, on a CPU, int8; auto is bf16 on CUDA, f32 elsewhere",
    ),
    Setting(
        "--model-id", "engine", "model_id", _NAME, "Hugging Face Hub id",
        "model to serve, fetched on first use", "unset, the embedded voice",
    ),
    Setting(
        "--model-file", "engine", "model_file", _NAME, "file name",
        "one file of the --model-id repository",
    ),
    Setting(
        "--weights-path", "engine", "weights_path", _PATH, "path",
        "local .safetensors, .gguf or model directory; goes before --model-id",
    ),
    Setting(
        "--max-positions", "engine", "max_positions", whole(64, 1 << 20), "positions",
        "longest prompt and speech together that a slot has memory for; 12.5 are a second",
        "unset, what the model was made for",
    ),
    Setting(
        "--random-weights", "engine", "random_weights", choice("sesame/csm-1b-size"), "sizes",
        "measure a device with sesame/csm-1b-size noise instead of a model",
    ),
    Setting(
        "--low-water-s", "engine", "low_water_s", seconds(0, 60), "s",
        "a call with less audio than this ahead of its player is short",
    ),
    Setting(
        "--high-water-s", "engine", "high_water_s", seconds(0, 600), "s",
        "a call with more than this ahead waits while another is short",
    ),
    Setting(
        "--voices-file", "speech", "voices_file", _PATH, "path", "JSON file of voice ids",
        "unset, which knows default and speaker_0 to speaker_3",
    ),
    Setting(
        "--rest-max-audio-len-ms", "speech", "rest_max_audio_len_ms", _AUDIO_LEN, "ms",
        "longest audio of one generation over HTTP, unless the request says",
    ),
    Setting(
        "--ws-max-audio-len-ms", "speech", "ws_max_audio_len_ms", _AUDIO_LEN, "ms",
        "longest audio of one generation on a socket, unless the session says",
    ),
    Setting(
        "--buffer-size", "speech", "buffer_size", whole(1, 250), "frames of 80 ms",
        "frames collected before the first chunk leaves, unless the session says",
    ),
    Setting(
        "--history-sentences", "speech", "history_sentences", whole(0, 64), "sentences",
        "sentences of its own that a voice hears before the next",
    ),
    Setting(
        "--alignment", "speech", "alignment", choice("on", "off"), "on or off",
        "tell clients which character is spoken when, by estimate; off sends null",
    ),
    Setting(
        "--max-text-chars", "speech", "max_text_chars", whole(1, 80_000), "characters",
        "longest text of one HTTP request",
    ),
    Setting(
        "--max-pending-chars", "speech", "max_pending_chars", whole(1, 10_000_000), "characters",
        "most text that may wait on a socket to be spoken",
    ),
    Setting(
        "--stall-timeout-s", "speech", "stall_timeout_s", seconds(0.1, 3600), "s",
        "how long a listener may take no audio",
    ),
    Setting(
        "--drain-s", "server", "drain_s", seconds(0, 3600), "s",
        "time for calls to end when the server is told to stop",
    ),
    Setting(
        "--log-level", "config", "log_level", choice("debug", "info", "warning", "error"),
        "level", "least severe messages logged: debug, info, warning or error",
    ),
)  # fmt: skip

_BY_KEY = {setting.key: setting for setting in SETTINGS}
# Kubernetes puts CSM_TRIO_PORT and the like beside a Service named csm-trio.
_SERVICE_LINKS = "CSM_TRIO_"
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
            parser.add_argument(
                setting.flag, action="store_true", default=None, help=setting.help_line
            )
        else:
            metavar = setting.flag.rpartition("-")[2].upper()
            parser.add_argument(setting.flag, metavar=metavar, help=setting.help_line)


def load_config(flags: Mapping[str, object], environ: Mapping[str, str]) -> Config:
    """Compose the configuration: flags over environment over file over defaults.

    `flags` are the parsed arguments by name, as `add_flags` makes them; others are passed over.
    An environment variable that is set but empty counts as unset. Raises `StartupError` for an
    unknown key or a bad value, naming where it stands.
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
        raise StartupError("--random-weights is served instead of a model: name no other.")
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
            raise StartupError(f"The environment variable {name} is no setting of this server.")
    return _collect(
        (name, setting, environ[name]) for name, setting in known.items() if environ.get(name)
    )


def _from_file(path: Path) -> _Values:
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise StartupError(f"The settings file {path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise StartupError(f"The settings file {path} is not valid TOML: {error}.") from None
    given: dict[str, tuple[str, Setting, object]] = {}
    for key, value in table.items():
        setting = _BY_KEY.get(key.replace("-", "_"))
        if setting is None:
            raise StartupError(f"The settings file {path} has an unknown key {key!r}.")
        if setting.key in given:
            raise StartupError(f"The settings file {path} sets {setting.key!r} twice.")
        given[setting.key] = (f"{path}, key {key!r}", setting, value)
    return _collect(given.values())


def _collect(given: Iterable[tuple[str, Setting, object]]) -> _Values:
    """Read what one source gives; two of its keys may not contradict each other."""
    values: _Values = {}
    origins: dict[tuple[str, str], str] = {}
    for origin, setting, raw in given:
        value = _read(origin, setting, raw)
        if setting.value_type is SWITCH:
            if value is False:
                continue
            value = "cpu"  # the one switch there is
        place = (setting.section, setting.field)
        if place in values and values[place] != value:
            raise StartupError(
                f"{origin} and {origins[place]} contradict each other: "
                f"{value!r} and {values[place]!r}."
            )
        values[place], origins[place] = value, origin
    return values


def _read(origin: str, setting: Setting, raw: object) -> object:
    value_type = setting.value_type
    shown = "the value given" if setting.secret else repr(raw)
    # A flag without a value is True; a TOML true is no number, though Python thinks it one.
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
