"""How many workers a server has: none on a CPU, on CUDA by slots and cores."""

import os
import subprocess
import sys
from pathlib import Path

from csm_trio.config import Config

_SLOTS_PER_COUNT = {1: 128, 2: 256, 4: 512, 8: 1024}
"""Workers, and the slots up to which they are enough."""
_OTHER_CORES = 2
"""Cores that are left to the engine process and the supervisor."""

_GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg")
"""Device files of NVIDIA's driver on Linux and on WSL."""


def serves_in_one_process(config: Config) -> bool:
    """Return whether the settings mean a server without workers."""
    if config.server.workers is not None:
        return config.server.workers == 0
    device = config.engine.device
    return not (device.startswith("cuda") or (device == "auto" and _finds_cuda()))


def worker_count(wanted: int | None, slots: int, *, cores: int | None = None) -> int:
    """Return the number of workers for so many slots, where the settings leave it open."""
    if wanted is not None:
        return wanted
    by_slots = next((n for n, limit in _SLOTS_PER_COUNT.items() if slots <= limit), 8)
    return max(1, min(by_slots, (cores or os.cpu_count() or 1) - _OTHER_CORES))


def _finds_cuda() -> bool:
    """Ask torch, in a process of its own: the supervisor must not load it."""
    if not any(Path(device).exists() for device in _GPU_DEVICES):
        return False
    program = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
