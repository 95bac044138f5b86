"""Compiled kernels outlive the process: where Triton keeps them, and how many are there already.

In: the environment, folders. Out: a folder, a count. CUDA graphs are not kept: they hold addresses.
"""

import os
from collections.abc import MutableMapping
from pathlib import Path

from csm_trio.errors import StartupError

_TRITON, _INDUCTOR = "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"


def share_inductors_folder(environ: MutableMapping[str, str]) -> None:
    """Point Triton into torch's own cache folder, where that is named and Triton's is not."""
    if environ.get(_INDUCTOR) and not environ.get(_TRITON):
        environ[_TRITON] = str(Path(environ[_INDUCTOR]).absolute() / "triton")


def cache_folder() -> Path:
    """Return the folder that Triton compiles into, made where it is missing.

    `TRITON_CACHE_DIR`, else `.triton/cache` in `TRITON_HOME` or the home directory. Raises
    `StartupError` where nothing can be written there.
    """
    from triton import knobs

    return writable(Path(knobs.cache.dir))


def writable(folder: Path) -> Path:
    """Return `folder`, made where it is missing; raise `StartupError` if it takes no files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError
    except OSError:
        raise StartupError(
            f"Triton cannot keep its compiled kernels in {folder}: "
            f"set {_TRITON} to a folder that can be written to."
        ) from None
    return folder


def count_kernels(folder: Path) -> int:
    """Count the kernels in a cache folder: Triton lists the files of each in a group file."""
    return sum(1 for _ in folder.glob("*/__grp__*.json"))
