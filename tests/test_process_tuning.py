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


@pytest.mark.skipif(not process_tuning._on_glibc(), reason="needs glibc")
@pytest.mark.parametrize("own", [None, "", "glibc.malloc.mxfast=16"])
def test_a_program_is_restarted_once_with_tuned_malloc(own: str | None) -> None:
    given = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    environment = given if own is None else {**given, "GLIBC_TUNABLES": own}
    program = [sys.executable, "-B", "-c", PROGRAM, "an argument"]
    text = subprocess.check_output(program, env=environment, text=True, timeout=60)
    *begun, tunables = text.split("\n")[:-1]
    assert len(set(begun)) == 1, "the same process, arguments and flags"
    assert begun[0].endswith(" an argument 1")
    assert len(begun) == (2 if own is None else 1)
    assert tunables == (":".join(process_tuning._TUNABLES) if own is None else own)


def test_without_glibc_or_the_right_to_restart_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    restarts: list[object] = []

    def refuse(*arguments: object) -> None:
        restarts.append(arguments)
        raise PermissionError

    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(os, "execve", refuse)
    monkeypatch.setattr(process_tuning, "_on_glibc", lambda: False)
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
