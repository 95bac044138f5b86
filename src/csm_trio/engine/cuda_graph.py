"""What work does on a CUDA device as one graph: captured once, replayed in a single launch.

In: work that reads and writes tensors whose addresses stay. Out: its graph. It must not know what
the work is.
"""

from collections.abc import Callable

import torch


def capture_graph(
    work: Callable[[], object], *, beside: torch.cuda.CUDAGraph | None = None
) -> torch.cuda.CUDAGraph:
    """Capture what `work` does, after doing it once: that compiles, which capture could not.

    The graph works in the memory of the one `beside` it, if there is one: never run both at once.
    """
    pool = None if beside is None else beside.pool()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
        work()
    return graph
