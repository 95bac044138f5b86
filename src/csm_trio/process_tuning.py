"""Process-wide settings for a process with thousands of live tasks: GC, thread switch, memory.

Knows no library: the Inductor cache and torch's threads are set in `engine`.
"""

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None  # type: ignore[assignment]

_GC_THRESHOLDS = (20_000, 5, 5)
"""Net new objects between two collections of the youngest generation (Python's default: 700,
which hundreds of sessions reach in a few milliseconds), and how many of one generation's
collections make one of the next.

A cancelled task leaves cycles of frames and exceptions, about 120 objects and 90 kB a turn: with
larger thresholds tens of megabytes wait for the collector."""

SWITCH_INTERVAL_S = 0.0001
"""Seconds that the event loop may keep the device thread from the interpreter lock; Python's
default is 5 ms."""


def freeze_heap() -> None:
    """Exclude all objects that exist now from later garbage collections."""
    gc.collect()
    gc.freeze()


_TUNABLES_VARIABLE = "GLIBC_TUNABLES"
_TUNABLES = (
    # oneDNN allocates and frees dozens of small structures for each product: more than the 7 of a
    # size that a thread keeps for itself by default.
    "glibc.malloc.tcache_count=32",
    # Each allocation from 1 KiB on, a tensor's for instance, merges all chunks kept in fastbins.
    "glibc.malloc.mxfast=0",
    # Linux may put the heap on pages of 2 MiB.
    "glibc.malloc.hugetlb=1",
)
"""Settings of malloc (glibc manual, "Memory Allocation Tunables")."""

_COMMAND, _COMMAND_MODULE = "csm-trio", "csm_trio.__main__"


def restart_with_tuned_malloc() -> None:
    """Restart this program with glibc's malloc tuned for a model's step on a CPU.

    glibc reads the settings when a process begins. The process keeps its number, its arguments and
    its open files. It does nothing without glibc, where `GLIBC_TUNABLES` is set already, or in a
    process that another program began.
    """
    if _TUNABLES_VARIABLE in os.environ or not (_on_glibc() and _runs_alone()):
        return
    environment = {**os.environ, _TUNABLES_VARIABLE: ":".join(_TUNABLES)}
    with suppress(OSError):  # it goes on as it is
        os.execve(sys.executable, sys.orig_argv, environment)


def _runs_alone() -> bool:
    """Return whether Python was started for the command `csm-trio`, and can be started again so.

    A program that calls it has already done its own work, and may have been read from a pipe.
    """
    main = sys.modules["__main__"]
    if main.__spec__ is None:
        by_command = Path(getattr(main, "__file__", None) or "").name == _COMMAND
    else:
        by_command = main.__spec__.name == _COMMAND_MODULE
    # Python derives its path from argv[0], which may be any name.
    named = by_command and bool(sys.orig_argv[0])
    try:
        return named and os.path.samefile(sys.executable, "/proc/self/exe")
    except OSError:
        return False


def _on_glibc() -> bool:
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (AttributeError, OSError, ValueError):  # Windows; macOS or another libc
        return False


_MAPS = Path("/proc/self/maps")
_HUGE_PAGE_BYTES = 1 << 21
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25
"""Linux' values (uapi/asm-generic/mman-common.h); the second since Linux 6.1."""


@contextmanager
def on_huge_pages() -> Iterator[None]:
    """Have Linux put the private memory that the block takes on pages of 2 MiB, at its end.

    With pages of 4 KiB a step that reads tens of megabytes of weights waits for page tables. It
    does nothing where the kernel has no huge pages, or does not give them on demand.
    """
    before = _huge_pages()
    yield
    try:
        advise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError, TypeError):  # not Linux
        return
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for page in sorted(_huge_pages() - before):
        for advice in (_MADV_HUGEPAGE, _MADV_COLLAPSE):
            # Where it fails, for lack of a free page or in an old kernel, small pages stay.
            advise(page * _HUGE_PAGE_BYTES, _HUGE_PAGE_BYTES, advice)


def _huge_pages() -> set[int]:
    """Return the numbers of the whole huge pages of areas that no file backs (proc(5), maps)."""
    try:
        lines = _MAPS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return set()
    pages: set[int] = set()
    for line in lines:
        bounds, permissions, _, _, inode, *name = line.split(maxsplit=5)
        if permissions == "rw-p" and inode == "0" and (not name or name[0].strip() == "[heap]"):
            start, end = (int(bound, 16) for bound in bounds.split("-"))
            pages.update(range(-(-start // _HUGE_PAGE_BYTES), end // _HUGE_PAGE_BYTES))
    return pages


_MAX_DESCRIPTORS = 1 << 16
"""File descriptors that are asked for where the system sets no hard limit, and assumed where the
limit is not known."""


@contextmanager
def tuned_process() -> Iterator[None]:
    """Tune the garbage collector and the thread switch interval of a process that serves."""
    switch_interval_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        with tuned_gc():
            yield
    finally:
        sys.setswitchinterval(switch_interval_s)


@contextmanager
def tuned_gc() -> Iterator[None]:
    """Keep the garbage collector from pausing the event loop.

    Existing objects are frozen out of its reach, and new ones are collected less often.
    """
    thresholds = gc.get_threshold()
    freeze_heap()
    gc.set_threshold(*_GC_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def raise_descriptor_limit() -> int:
    """Raise the limit of open file descriptors as far as the system allows, and return it."""
    if resource is None:
        return _MAX_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
