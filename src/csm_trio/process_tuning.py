"""Process-wide settings of Python for a process with thousands of live tasks: GC and thread switch.

Knows no library: the Inductor cache and torch's threads are set in `engine`.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

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
