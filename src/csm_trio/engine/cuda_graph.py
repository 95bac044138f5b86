"""Capture work on a CUDA device as one graph, replayed in a single launch.

In: a function that reads and writes tensors at fixed addresses. Out: its graph. It must not know
what the function computes.
"""

from collections.abc import Callable
from functools import cache

import torch


def capture_graph(
    work: Callable[[], object], *, beside: torch.cuda.CUDAGraph | None = None
) -> torch.cuda.CUDAGraph:
    """Run `work` once, which compiles its kernels, and then capture it.

    The graph shares the memory pool of `beside`, if given: the two must never run at once.
    """
    pool = None if beside is None else beside.pool()
    stream = _capture_stream(torch.cuda.current_device())
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
        work()
    return graph


@cache
def _capture_stream(device_index: int) -> torch.cuda.Stream:
    """Return the stream of all captures on a device: cuBLAS keeps a workspace for each stream."""
    return torch.cuda.Stream(device_index)  # type: ignore[no-untyped-call]
