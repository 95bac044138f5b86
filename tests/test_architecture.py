"""The house's law: imports go down the floors only, and torch and trio never meet in one file."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import csm_trio

SOURCE = Path(csm_trio.__file__).parent

# Room -> (floor, own rooms it may import beside those on lower floors, third parties it may use).
FLOORS: dict[str, tuple[float, set[str], set[str]]] = {
    "errors": (1, set(), set()),
    "setting_types": (1, set(), set()),
    "process_tuning": (1, set(), set()),
    "timebase": (1, set(), set()),
    "config": (1, {"errors", "setting_types"}, set()),
    "telemetry": (1, set(), {"prometheus_client"}),
    "text": (1, {"errors"}, set()),
    "audio": (2, set(), {"numpy", "soxr", "lameenc", "av"}),
    "alignment": (2, set(), {"numpy"}),
    "voices": (2, {"audio"}, {"numpy"}),
    "model": (
        2,
        set(),
        {"torch", "triton", "numpy", "safetensors", "gguf", "tokenizers", "transformers"}
        | {"huggingface_hub"},
    ),
    "protocol": (3, set(), set()),
    "engine": (3, set(), {"torch", "triton", "trio", "numpy", "tokenizers"}),
    "pipeline": (4, set(), {"trio", "numpy"}),
    "api": (5, set(), {"trio", "quart", "quart_trio", "hypercorn", "h11", "werkzeug"}),
    "client_flags": (4.5, set(), set()),
    "client": (5, set(), {"trio", "trio_websocket"}),
    "say": (5.5, set(), {"trio"}),
    "bench": (5.5, set(), {"trio", "trio_websocket", "torch", "transformers", "numpy"}),
    "server": (6, set(), {"trio", "hypercorn"}),
    "cli": (7, set(), {"trio"}),
    "__main__": (8, set(), set()),
}

# What a room may see of the rooms below: not everything that is lower is its business.
NARROWED: dict[str, set[str]] = {
    "text": {"errors"},
    "audio": {"errors", "timebase"},
    "alignment": {"text", "timebase"},
    "voices": {"errors", "timebase", "audio"},
    "model": {"errors", "timebase"},
    "protocol": {"errors", "audio", "voices", "alignment"},
    "engine": {"errors", "timebase", "config", "telemetry", "model", "voices"},
    "client_flags": set(),
    "client": {"errors", "audio", "protocol", "client_flags"},
    "say": {"errors", "audio", "client", "client_flags"},
    "server": {"errors", "config", "telemetry", "voices", "engine", "pipeline", "api"},
    "bench": {
        "errors",
        "timebase",
        "audio",
        "client",
        "client_flags",
        "process_tuning",
        "config",
        "engine",
        "model",
    },
}

# Only these files of the engine know Trio; the scheduler knows neither Trio nor torch.
TRIO_IN_ENGINE = {"service"}
WITHOUT_TORCH_BELOW = {"service", "scheduler", "runaway", "utterance"}


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Yield every module a file names in an import, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def own_rooms(path: Path) -> set[str]:
    modules = (name.split(".") for name in imported(path))
    return {parts[1] for parts in modules if parts[0] == "csm_trio" and len(parts) > 1}


def third_parties(path: Path) -> set[str]:
    tops = {name.split(".")[0] for name in imported(path)}
    return tops - set(sys.stdlib_module_names) - {"csm_trio"}


def test_every_room_is_on_the_plan() -> None:
    assert {room_of(path) for path in files()} - {"__init__"} == set(FLOORS)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down_the_floors(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    floor, beside, libraries = FLOORS[room]
    for other in own_rooms(path) - {room} - beside:
        assert FLOORS[other][0] < floor, f"{room} must not know {other}"
        assert other in NARROWED.get(room, {other}), f"{other} is not {room}'s business"
    assert third_parties(path) <= libraries


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_torch_and_trio_never_meet(path: Path) -> None:
    assert not {"torch", "trio"} <= third_parties(path)


def test_the_engine_keeps_trio_and_torch_in_their_own_files() -> None:
    for path in (SOURCE / "engine").glob("*.py"):
        libraries = third_parties(path)
        assert ("trio" in libraries) == (path.stem in TRIO_IN_ENGINE), path
        if path.stem in WITHOUT_TORCH_BELOW:
            assert "torch" not in libraries, path


def test_packages_hold_nothing_but_a_docstring() -> None:
    for path in SOURCE.rglob("__init__.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert all(
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body
        ), path


def test_functions_are_short() -> None:
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


def test_broad_excepts_stand_at_the_named_doors_only() -> None:
    broad = [
        path.relative_to(SOURCE).as_posix()
        for path in files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException"))
    ]
    # The connection and the socket door. The step loop needs none: what it raises ends the server
    # by itself.
    assert broad == ["api/connections.py", "api/elevenlabs/websockets.py"]
