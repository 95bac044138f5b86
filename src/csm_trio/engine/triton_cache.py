"""Compiled kernels outlive the process: where Triton keeps them, and how many are there already.

In: the environment, folders. Out: a folder, counts in the log. CUDA graphs are not kept: they hold
addresses of this process.
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
    """Point Triton into torch's own cache folder, where that is named and Triton's is not."""
    if environ.get(_INDUCTOR) and not environ.get(_TRITON):
        environ[_TRITON] = str(Path(environ[_INDUCTOR]).absolute() / "triton")


@dataclass(frozen=True, slots=True)
class KernelCache:
    """The folder that Triton compiles into, and how many kernels it held before."""

    folder: Path
    before: int

    @classmethod
    def found(cls) -> Self:
        """Ask Triton for its folder: `TRITON_CACHE_DIR`, else `~/.triton/cache`.

        Raises `StartupError` where nothing can be written there.
        """
        from triton import knobs

        folder = writable(Path(knobs.cache.dir))
        before = count_kernels(folder)
        _logger.info("compiled kernels are kept in %s, which holds %d", folder, before)
        return cls(folder, before)

    def tell(self) -> None:
        """Log how many kernels were compiled since: none, where the folder was warm."""
        compiled = count_kernels(self.folder) - self.before
        _logger.info("%d kernels were compiled, %d were there", compiled, self.before)


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
