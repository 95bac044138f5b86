"""Triton's cache folder of compiled kernels: choose it, check it, count what it has.

In: the environment, folders. Out: a folder, counts in the log. CUDA graphs are not cached: they
hold addresses of this process.
"""

import logging
import os
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from csm_trio.errors import StartupError

_logger = logging.getLogger(__name__)

_TRITON, _INDUCTOR = "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"


def share_inductor_cache(environ: MutableMapping[str, str]) -> None:
    """Put Triton's cache inside torch's cache folder, if only the latter is set."""
    if environ.get(_INDUCTOR) and not environ.get(_TRITON):
        environ[_TRITON] = str(Path(environ[_INDUCTOR]).absolute() / "triton")


@dataclass(frozen=True, slots=True)
class KernelCache:
    """Triton's cache folder, and the number of kernels in it at the start."""

    folder: Path
    before: int

    @classmethod
    def open(cls) -> Self:
        """Open Triton's folder: `TRITON_CACHE_DIR`, else `~/.triton/cache`.

        Raises `StartupError` if the folder is not writable.
        """
        from triton import knobs

        folder = writable(Path(knobs.cache.dir))
        before = count_kernels(folder)
        _logger.info("compiled kernels are kept in %s, which holds %d", folder, before)
        return cls(folder, before)

    def log_compiled(self) -> None:
        """Log how many kernels were compiled since the start: none if the cache was warm."""
        compiled = count_kernels(self.folder) - self.before
        _logger.info("%d kernels were compiled, %d were cached", compiled, self.before)


def writable(folder: Path) -> Path:
    """Return `folder`, created if missing; raise `StartupError` if it is not writable."""
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
