"""Process-wide settings: changed while a block runs, and restored after it."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from csm_trio import process_tuning
from csm_trio.process_tuning import SWITCH_INTERVAL_S, on_huge_pages, tuned_gc, tuned_process


def test_the_garbage_collector_is_restored() -> None:
    before = gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()
    with tuned_gc():
        assert gc.get_threshold()[0] > before[0][0]
        assert gc.isenabled()
    assert (gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()) == before


def test_a_tuned_process_switches_threads_sooner_and_restores_it_all() -> None:
    before = gc.get_threshold(), gc.get_freeze_count(), sys.getswitchinterval()
    with tuned_process():
        assert gc.get_threshold()[0] > before[0][0]
        assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S)
    assert (gc.get_threshold(), gc.get_freeze_count(), sys.getswitchinterval()) == before


PROGRAM = """
import os, sys
from csm_trio.process_tuning import restart_with_tuned_malloc
print(os.getpid(), sys.argv[1], sys.flags.dont_write_bytecode, flush=True)
restart_with_tuned_malloc()
print(os.environ.get("GLIBC_TUNABLES", ""))
"""


TUNABLES = ":".join(process_tuning._TUNABLES)


def lines_of(
    arguments: list[str], own: str | None = None, *, name: str = sys.executable, stdin: str = ""
) -> list[str]:
    """Return what Python prints with these arguments, where `own` is GLIBC_TUNABLES."""
    given = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    text = subprocess.check_output(
        [name, "-B", *arguments, "an argument"],
        executable=sys.executable,
        env=given if own is None else {**given, "GLIBC_TUNABLES": own},
        input=stdin,
        text=True,
        timeout=60,
    )
    return text.split("\n")[:-1]


@pytest.mark.skipif(not process_tuning._on_glibc(), reason="needs glibc")
@pytest.mark.parametrize("own", [None, "", "glibc.malloc.mxfast=16"])
def test_the_command_is_restarted_once_with_tuned_malloc(own: str | None, tmp_path: Path) -> None:
    command = tmp_path / "csm-trio"
    command.write_text(PROGRAM)
    *begun, tunables = lines_of([str(command)], own)
    assert len(set(begun)) == 1, "the same process, arguments and flags"
    assert begun[0].endswith(" an argument 1")
    assert len(begun) == (2 if own is None else 1)
    assert tunables == (TUNABLES if own is None else own)


@pytest.mark.skipif(not process_tuning._on_glibc(), reason="needs glibc")
def test_the_module_is_restarted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "csm_trio"
    package.mkdir()
    source = Path(process_tuning.__file__)
    (package / "__init__.py").touch()
    (package / source.name).write_text(source.read_text())
    (package / "__main__.py").write_text(PROGRAM)
    program = f"import runpy, sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    assert len(lines_of(["-c", f"{program}runpy.run_module('csm_trio')"])) == 2, "not the process'"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    assert lines_of(["-m", "csm_trio"])[2] == TUNABLES


@pytest.mark.skipif(not process_tuning._on_glibc(), reason="needs glibc")
def test_another_program_that_serves_is_not_run_again(tmp_path: Path) -> None:
    other = tmp_path / "bot.py"
    other.write_text(PROGRAM)
    for arguments in (["-c", PROGRAM], ["-"], [str(other)]):
        begun, tunables = lines_of(arguments, stdin=PROGRAM)
        assert begun.endswith(" an argument 1")
        assert not tunables


@pytest.mark.skipif(not process_tuning._on_glibc(), reason="needs glibc")
@pytest.mark.parametrize("name", ["csm-trio", ""])
def test_an_interpreter_under_another_name_is_not_started_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "csm-trio"
    command.write_text(PROGRAM)
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    # Under another name Python does not find its libraries by itself.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.setenv("PYTHONHOME", sys.base_prefix)
    begun, tunables = lines_of([str(command)], name=name)
    assert begun.endswith(" an argument 1")
    assert not tunables


def test_without_glibc_or_the_right_to_restart_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    restarts: list[object] = []

    def refuse(*arguments: object) -> None:
        restarts.append(arguments)
        raise PermissionError

    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(os, "execve", refuse)
    monkeypatch.setattr(process_tuning, "_on_glibc", lambda: False)
    monkeypatch.setattr(process_tuning, "_runs_alone", lambda: True)
    process_tuning.restart_with_tuned_malloc()
    assert not restarts
    monkeypatch.setattr(process_tuning, "_on_glibc", lambda: True)
    process_tuning.restart_with_tuned_malloc()
    assert len(restarts) == 1


def test_memory_moves_to_huge_pages_unchanged() -> None:
    with on_huge_pages():
        block = bytearray(range(256)) * (8 << 12)  # 8 MiB, which the allocator maps by itself
    kept = bytes(range(256)) * 16
    assert all(block[start : start + 4096] == kept for start in range(0, len(block), 4096))


def test_areas_of_files_stacks_and_part_pages_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    maps = tmp_path / "maps"
    maps.write_text(
        "00200000-00600000 rw-p 00000000 00:00 0                          [heap]\n"
        "00700000-00900000 rw-p 00000000 00:00 0 \n"
        "00a00000-00e00000 r--p 00000000 00:00 0 \n"
        "01000000-01400000 rw-s 00000000 00:00 0 \n"
        "01600000-01a00000 rw-p 00000000 fe:01 131081                     /a file (deleted)\n"
        "01c00000-02000000 rw-p 00000000 00:00 0                          [stack]\n"
        "02100000-02900000 rw-p 00000000 00:00 0 \n"
    )
    monkeypatch.setattr(process_tuning, "_MAPS", maps)
    assert process_tuning._huge_pages() == {0x1, 0x2, 0x11, 0x12, 0x13}


def test_a_system_without_maps_has_no_huge_pages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(process_tuning, "_MAPS", tmp_path / "maps")
    with on_huge_pages():
        pass
    assert process_tuning._huge_pages() == set()
