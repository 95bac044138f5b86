"""The structure: imports go down the layers only, torch and trio never meet, and words are plain.

docs/architecture.md explains the layers; this table is what holds.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import csm_trio

SOURCE = Path(csm_trio.__file__).parent
DOCS = Path(__file__).parents[1] / "docs"


@dataclass(frozen=True, slots=True)
class Row:
    """One package or top-level module: its layer, what it may import, third parties included."""

    layer: float
    own: set[str] = field(default_factory=set)
    third_party: set[str] = field(default_factory=set)


GROUND = {
    "errors",
    "named_files",
    "watched_files",
    "socket_writer",
    "config",
    "telemetry",
    "timebase",
    "process_tuning",
}

LAYERS = {
    "errors": Row(1),
    "timebase": Row(1),
    "setting_types": Row(1),
    "process_tuning": Row(1),
    "socket_writer": Row(1, set(), {"trio"}),
    "watched_files": Row(1, set(), {"trio"}),
    "named_files": Row(1.2, {"errors"}),
    "config": Row(1.5, {"errors", "setting_types", "named_files"}),
    "log_format": Row(0.5),
    "telemetry": Row(1, {"log_format"}, {"prometheus_client"}),
    "tracing": Row(2, {"errors", "config", "telemetry"}, {"opentelemetry"}),
    "text": Row(1.5, {"errors", "timebase"}),
    "audio": Row(2, {"errors", "timebase", "text"}, {"numpy", "soxr", "lameenc", "av"}),
    "alignment": Row(2, {"text", "timebase"}, {"numpy"}),
    "voices": Row(2.5, {"errors", "named_files"}, {"numpy"}),
    "model": Row(
        2,
        {"errors", "named_files", "timebase"},
        {"torch", "triton", "numpy", "safetensors", "gguf", "tokenizers", "transformers"}
        | {"huggingface_hub"},
    ),
    "protocol": Row(3, {"errors", "audio", "voices", "alignment", "timebase"}),
    "engine": Row(
        3, GROUND | {"model", "audio"}, {"torch", "triton", "trio", "numpy", "tokenizers"}
    ),
    "pipeline": Row(
        4,
        GROUND | {"engine", "protocol", "text", "audio", "alignment", "voices"},
        {"trio", "numpy"},
    ),
    "voice_store": Row(4, GROUND | {"audio", "engine", "protocol", "voices"}, {"trio", "numpy"}),
    "api": Row(
        5,
        GROUND | {"pipeline", "voice_store", "engine", "protocol", "audio", "alignment", "voices"},
        {"trio", "quart", "quart_trio", "hypercorn", "h11", "wsproto", "werkzeug"},
    ),
    "client_flags": Row(4.5),
    "client": Row(
        5, {"errors", "audio", "protocol", "timebase", "client_flags"}, {"trio", "trio_websocket"}
    ),
    "say": Row(6, {"errors", "audio", "client", "client_flags", "protocol"}, {"trio"}),
    "batch": Row(
        6,
        {"errors", "audio", "client_flags", "protocol", "timebase"},
        {"trio", "h11", "numpy", "av"},
    ),
    "bench": Row(
        6,
        GROUND | {"audio", "client", "client_flags", "engine", "model"},
        {"trio", "trio_websocket", "torch", "transformers", "numpy"},
    ),
    "server": Row(6, GROUND | {"api", "pipeline", "voice_store", "engine", "tracing"}, {"trio"}),
    "metrics_snapshot": Row(1, set(), {"prometheus_client"}),
    "processes": Row(
        6.5,
        GROUND
        | {"server", "api", "engine", "pipeline", "voice_store", "protocol", "voices"}
        | {"metrics_snapshot", "log_format", "tracing"},
        {"trio"},
    ),
    "cli": Row(
        7,
        GROUND
        | {"server", "processes", "client_flags", "say", "batch", "bench", "engine"}
        | {"voice_store", "log_format", "tracing"},
        {"trio"},
    ),
    "__main__": Row(8, {"cli"}),
}

# What the layers above see of the engine: requests, results and the service, nothing of torch.
ENGINE_SEEN_BY = {
    "pipeline": {"service", "utterance"},
    "voice_store": {"clip_codes"},
    "api": {"service", "utterance"},
    "server": {"in_process", "service", "scheduler"},
    "processes": {"host", "remote", "scheduler", "triton_cache", "utterance"},
}
# Trio belongs to a few files of the engine; the pure files know neither Trio nor torch.
TRIO_IN_ENGINE = {"service", "in_process", "remote", "device_thread"}
WITHOUT_TORCH = TRIO_IN_ENGINE | {
    *("slot_pool", "slot_queue", "step_loop", "scheduler", "runaway", "utterance", "prompt"),
    *("byte_size", "host", "wire", "worker_links"),
}

# The two ends where any exception is caught: a connection's and a WebSocket session's.
BROAD_EXCEPTS = ["api/connections.py", "api/elevenlabs/websockets.py"]

RETIRED_WORDS = re.compile(
    r"\b(houses?|doors?|rooms?|glances?|warmth|dice|whoever|nobody|somebody)\b", re.IGNORECASE
)
# Texts that are to be spoken or normalized, not words about the program.
SPOKEN_TEXTS = {
    "text/normalization/lexicon.py",
    "text/normalization/amounts.py",
    "text/segment.py",
    "bench/load/workload.py",
}


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def package_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, at the top and inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def own_modules(path: Path) -> list[list[str]]:
    modules = (name.split(".")[1:] for name in imported(path) if name.startswith("csm_trio"))
    return [parts for parts in modules if parts]


def third_parties(path: Path) -> set[str]:
    tops = {name.split(".")[0] for name in imported(path)}
    return tops - set(sys.stdlib_module_names) - {"csm_trio"}


every_file = pytest.mark.parametrize("path", files(), ids=name_of)


def test_every_package_has_a_row() -> None:
    assert {package_of(path) for path in files()} - {"__init__"} == set(LAYERS)


def test_every_row_names_lower_layers_only() -> None:
    for name, row in LAYERS.items():
        for other in row.own:
            assert LAYERS[other].layer < row.layer, f"{name} is not above {other}"


@every_file
def test_imports_go_down_the_layers(path: Path) -> None:
    package = package_of(path)
    if package == "__init__":
        return
    row = LAYERS[package]
    assert {parts[0] for parts in own_modules(path)} - {package} <= row.own
    assert third_parties(path) <= row.third_party


@every_file
def test_the_layers_above_see_only_the_engines_front(path: Path) -> None:
    allowed = ENGINE_SEEN_BY.get(package_of(path))
    if allowed is None:
        return
    seen = {parts[1] for parts in own_modules(path) if parts[0] == "engine" and len(parts) > 1}
    assert seen <= allowed


@every_file
def test_torch_and_trio_never_meet_in_one_file(path: Path) -> None:
    assert not {"torch", "trio"} <= third_parties(path)


def test_the_engine_keeps_trio_and_torch_in_their_own_files() -> None:
    for path in (SOURCE / "engine").glob("*.py"):
        libraries = third_parties(path)
        assert ("trio" in libraries) == (path.stem in TRIO_IN_ENGINE), path
        if path.stem in WITHOUT_TORCH:
            assert "torch" not in libraries, path


def test_packages_hold_only_a_docstring() -> None:
    for path in SOURCE.rglob("__init__.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert all(
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body
        ), path


def test_nine_of_ten_functions_are_under_40_lines() -> None:
    lengths = sorted(
        (node.end_lineno or node.lineno) - node.lineno + 1
        for path in files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert lengths[len(lengths) * 9 // 10] < 40


def test_no_asyncio_and_no_except_cancelled() -> None:
    for path in files():
        assert "asyncio" not in {name.split(".")[0] for name in imported(path)}, path
        assert "except trio.Cancelled" not in path.read_text(encoding="utf-8"), path


def test_broad_excepts_stand_at_the_two_named_ends_only() -> None:
    broad = [
        name_of(path)
        for path in files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException"))
    ]
    # The step loop needs none: an exception there ends the server by itself.
    assert broad == BROAD_EXCEPTS


@pytest.mark.parametrize(
    "path",
    [path for path in files() if name_of(path) not in SPOKEN_TEXTS] + sorted(DOCS.glob("*.md")),
    ids=lambda path: path.name,
)
def test_retired_words_do_not_return(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if RETIRED_WORDS.search(line)]
