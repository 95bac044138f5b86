"""Triton's cache folder: chosen by the environment, counted, and rejected if not writable."""

import logging
import os
from pathlib import Path

import pytest

from csm_trio.engine.triton_cache import (
    KernelCache,
    count_kernels,
    share_inductor_cache,
    writable,
)
from csm_trio.errors import StartupError

TRITON, INDUCTOR = "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({}, None),
        ({TRITON: "/t"}, "/t"),
        ({INDUCTOR: "/i"}, "/i/triton"),
        ({INDUCTOR: "/i", TRITON: "/t"}, "/t"),
        ({INDUCTOR: "/i", TRITON: ""}, "/i/triton"),
    ],
)
def test_tritons_folder_is_its_own_or_inside_torchs(
    environ: dict[str, str], folder: str | None
) -> None:
    share_inductor_cache(environ)
    assert environ.get(TRITON) == folder


def test_each_group_file_counts_as_one_kernel(tmp_path: Path) -> None:
    folder = writable(tmp_path / "new" / "cache")
    assert count_kernels(folder) == 0
    for key, names in {
        "A": ["__grp__attend.json", "attend.cubin", "attend.json"],
        "B": ["__grp__draw.json", "draw.cubin"],
        "C": ["launcher.so"],
    }.items():
        (folder / key).mkdir()
        for name in names:
            (folder / key / name).touch()
    assert count_kernels(folder) == 2


def test_newly_compiled_kernels_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for key in ("A", "B", "C"):
        (tmp_path / key).mkdir()
        (tmp_path / key / "__grp__attend.json").touch()
    with caplog.at_level(logging.INFO, logger="csm_trio"):
        KernelCache(tmp_path, before=1).log_compiled()
    assert caplog.messages == ["2 kernels were compiled, 1 were cached"]


def test_a_folder_that_cannot_be_made_is_one_error_sentence(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(StartupError, match=rf"in {file}/cache: set TRITON_CACHE_DIR"):
        writable(file / "cache")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_one_error_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StartupError, match="set TRITON_CACHE_DIR"):
        writable(tmp_path)
