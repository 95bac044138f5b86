"""A double for CUDA graphs on a CPU: the captured function runs at every replay.

In: a test's monkeypatch and the modules that capture. It must not know what they compute.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode


class Unpinned(TorchFunctionMode):
    """Allocates pageable memory in place of pinned memory, which needs a device."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kept = {name: value for name, value in (kwargs or {}).items() if name != "pin_memory"}
        return func(*args, **kept)


@dataclass(frozen=True)
class Rerun:
    """A graph that runs its function at every replay."""

    replay: Callable[[], object]


def rerun(work: Callable[[], object], *, beside: Rerun | None = None) -> Rerun:
    """Run `work` once, as a capture does, and return its graph."""
    work()
    return Rerun(work)


class Stream:
    """A stream whose work is complete."""

    def synchronize(self) -> None:
        pass


def rerun_graphs(
    monkeypatch: pytest.MonkeyPatch,
    *modules: ModuleType,
    capture: Callable[..., Rerun] = rerun,
) -> Unpinned:
    """Replace captures in `modules`; return the mode in which pinned memory is allocated."""
    for module in modules:
        monkeypatch.setattr(module, "capture_graph", capture)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    return Unpinned()
