"""Choose how many CPU threads a model runs on: one if it is small, else by the memory's rate.

In: sizes, then the loaded model. Out: torch's number of threads, and a line in the log. It must
not know other devices.
"""

import logging
import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import torch

from csm_trio.model.config import CSMConfig
from csm_trio.model.csm import CSM
from csm_trio.model.linear import linear, stored_bytes

_logger = logging.getLogger(__name__)

_SMALL_HIDDEN_SIZE = 512
"""Backbone width up to which a model runs on one thread."""
_MEASURED_S = 0.3
"""Time that measuring takes at most, in seconds."""
_ENOUGH = 0.95
"""Share of the highest rate with which fewer threads are enough."""
_VARIABLE = "OMP_NUM_THREADS"

_CGROUP = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_PERIOD_US = 100_000
"""Linux' default period of a quota, in microseconds (Documentation/admin-guide/cgroup-v2.rst)."""
_CPUS = Path("/sys/devices/system/cpu")


def bound_cpu_threads(config: CSMConfig) -> None:
    """Give torch one thread for a small model, and every usable core to load a large one.

    Matrices that take microseconds gain nothing from a second thread, and its spinning slows
    other work on the machine. `OMP_NUM_THREADS` decides for a large model.
    """
    if _is_small(config):
        torch.set_num_threads(1)
    elif not _is_chosen():
        torch.set_num_threads(usable_cores())


def choose_cpu_threads(model: CSM, rows: int) -> None:
    """Give a large model the fewest threads with which memory is read about as fast as it can be.

    Measures the products of the depth decoder for `rows` rows, most of what a frame reads, with
    decreasing numbers of threads, and logs the choice.
    """
    if _is_small(model.config):
        return
    if _is_chosen():
        _logger.info("CPU threads: %d, by %s", torch.get_num_threads(), _VARIABLE)
        return
    cores = torch.get_num_threads()
    rates = _measured_rates(model, rows, cores)
    threads = fewest_threads(rates)
    torch.set_num_threads(threads)
    _logger.info(
        "CPU threads: %d of %d, which read weights at %.1f GB/s (threads: GB/s: %s)",
        threads, cores, rates[threads] / 1e9,
        ", ".join(f"{count}: {rate / 1e9:.1f}" for count, rate in sorted(rates.items())),
    )  # fmt: skip


def _is_chosen() -> bool:
    """Return whether the variable has a number of threads, as OpenMP reads it: `4`, or `4,2`."""
    return re.match(r"\s*0*[1-9]\d*\s*(,|$)", os.environ.get(_VARIABLE, "")) is not None


def fewest_threads(rates: Mapping[int, float]) -> int:
    """Return the least number of threads whose rate is within 5 % of the highest."""
    enough = _ENOUGH * max(rates.values())
    return min(threads for threads, rate in rates.items() if rate >= enough)


def usable_cores() -> int:
    """Return how many physical cores the process may use, by its affinity and its group's quota."""
    if not hasattr(os, "sched_getaffinity"):  # macOS
        return os.cpu_count() or 1
    cores = {_core(cpu) for cpu in os.sched_getaffinity(0)}
    return max(1, min([len(cores), *_quotas()]))


def _core(cpu: int) -> str:
    """Return the hardware threads of a CPU's core, as Linux lists them: `0,64`."""
    try:
        siblings = _CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        return siblings.read_text(encoding="ascii").strip()
    except OSError:
        return str(cpu)


def _quotas() -> Iterable[int]:
    """Yield the CPU quotas of the process' control group (version 2) and of those above it."""
    try:
        lines = _OWN_CGROUP.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    own = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    path = PurePosixPath(own.lstrip("/"))
    for group in (path, *path.parents):
        try:
            limit = (_CGROUP / group / "cpu.max").read_text(encoding="ascii")
        except OSError:
            continue
        quota, period_us, *_ = *limit.split(), _PERIOD_US
        if quota != "max":
            yield int(quota) // int(period_us)


def _is_small(config: CSMConfig) -> bool:
    return config.backbone.hidden_size <= _SMALL_HIDDEN_SIZE


def _measured_rates(model: CSM, rows: int, cores: int) -> dict[int, float]:
    """Return the rate of reading the depth decoder (bytes/s) by numbers of threads.

    Begins with the most threads, which take the least time; leaves numbers out for which no time
    is left.
    """
    size = sum(
        stored_bytes(weight)
        for layer in model.depth.blocks
        for weight in (layer.qkv, layer.out, layer.gate_up, layer.down)
    )
    rates: dict[int, float] = {}
    ends_s = time.perf_counter() + _MEASURED_S
    counts = _thread_counts(cores)
    for number, threads in enumerate(counts):
        left_s = ends_s - time.perf_counter()
        if rates and left_s < 2 * size / rates[counts[number - 1]]:
            break
        torch.set_num_threads(threads)
        rates[threads] = size / _fastest_pass_s(model, rows, left_s / (len(counts) - number))
    return rates


def _thread_counts(cores: int) -> list[int]:
    """Return numbers of threads to measure, from all cores down to one: 8, 6, 4, 3, 2, 1."""
    powers = [1 << power for power in range(cores.bit_length())]
    counts = {cores, *powers, *(3 * power for power in powers)}
    return sorted((count for count in counts if count <= cores), reverse=True)


@torch.inference_mode()
def _fastest_pass_s(model: CSM, rows: int, within_s: float) -> float:
    """Return the shortest time of a pass through the depth decoder's products, in seconds."""
    config = model.config.depth
    hidden, heads, gated = (
        torch.ones(rows, width, dtype=model.depth.norm.dtype)
        for width in (config.hidden_size, config.heads * config.head_dim, config.intermediate_size)
    )
    took_s: list[float] = []
    # The first pass starts the threads: with time for a second one it is not the fastest.
    while not took_s or sum(took_s) + took_s[-1] < within_s:
        started_s = time.perf_counter()
        for layer in model.depth.blocks:
            linear(hidden, layer.qkv)
            linear(heads, layer.out)
            linear(hidden, layer.gate_up)
            linear(gated, layer.down)
        took_s.append(time.perf_counter() - started_s)
    return min(took_s)
