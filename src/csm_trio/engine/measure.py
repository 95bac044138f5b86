"""Time the engine alone: no sockets, no scheduler, the host waiting for every step.

In: engine settings and numbers of rows. Out: an `EngineTiming`. It knows how to make the device
work and how to wait for it; who would listen, it must not know.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from csm_trio.config import EngineConfig
from csm_trio.engine.eager import CODEC_ROWS
from csm_trio.engine.load import LoadedModel, load_model, warm_runner
from csm_trio.engine.runner import TorchRunner
from csm_trio.engine.timing import BatchTiming, EngineTiming, PeerTiming, PrefillTiming
from csm_trio.engine.utterance import Sampling, Utterance
from csm_trio.model.prompt import Turn
from csm_trio.model.transformers_peer import TransformersPeer

_TEXT = "The quick brown fox jumps over the lazy dog, and nobody minds."
_UNTIMED_STEPS = 5
_CODEC_ROUNDS = 10
_PREFILL_ROUNDS = 7
_PREFILL_POSITIONS = (64, 256, 1024)
_COPIED_BYTES = {"cuda": 1 << 30, "cpu": 1 << 27}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure: numbers of rows, timed steps for each, and rows for transformers."""

    batches: tuple[int, ...] = (1,)
    steps: int = 100
    peer_batches: tuple[int, ...] = ()


def measure_engine(config: EngineConfig, plan: Plan) -> EngineTiming:
    """Load what the settings name and time it; the pool is as large as the largest batch.

    Raises StartupError where the model cannot be had or the slots do not fit.
    """
    pool_size = config.pool_size or max(plan.batches)
    started_s = time.perf_counter()
    loaded = load_model(config)
    wait_for(loaded.placement.device)
    loaded_s = time.perf_counter()
    runner = warm_runner(loaded, pool_size)
    wait_for(loaded.placement.device)
    warm_s = time.perf_counter()
    batches = tuple(_time_batch(loaded, runner, batch, plan.steps) for batch in plan.batches)
    prefills = tuple(_time_prefills(loaded, runner))
    allocated, peak = _memory(loaded.placement.device)
    del runner
    return EngineTiming(
        device=_device_name(loaded.placement.device),
        dtype=str(loaded.placement.weights).removeprefix("torch."),
        model=loaded.name,
        torch=torch.__version__,
        slots=pool_size,
        load_s=loaded_s - started_s,
        warm_up_s=warm_s - loaded_s,
        allocated_bytes=allocated,
        peak_bytes=peak,
        frame_bytes=frame_bytes(loaded),
        copy_bytes_per_s=_copy_bytes_per_s(loaded.placement.device),
        batches=batches,
        prefills=prefills,
        peers=tuple(_time_peer(loaded, batch) for batch in plan.peer_batches),
    )


def frame_bytes(loaded: LoadedModel) -> int:
    """Count the weights that one frame reads, the depth decoder's once for each of its steps."""
    model, steps = loaded.model, loaded.config.codebooks - 1

    def size(tensors: Sequence[torch.Tensor]) -> int:
        return sum(tensor.nbytes for tensor in tensors)

    depth = size([tensor for layer in model.depth.blocks for tensor in layer.parameters()])
    once = [tensor for layer in model.backbone.blocks for tensor in layer.parameters()]
    once += [model.first_head, model.depth_projector, *model.depth_heads]
    once += loaded.codec.parameters()
    return size(once) + steps * depth


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _time_batch(loaded: LoadedModel, runner: TorchRunner, batch: int, steps: int) -> BatchTiming:
    room = loaded.config.backbone.max_positions // 2
    utterance = Utterance(_TEXT, 0, room, Sampling(temperature=0.9, top_k=50, seed=1))
    slots = range(batch)
    for first in range(0, batch, runner.opens_per_step):
        runner.open([(slot, utterance) for slot in slots[first : first + runner.opens_per_step]])
        runner.fill()
    timed = min(steps, room - _UNTIMED_STEPS)
    took_ms = [_took_ms(partial(runner.step, slots)) for _ in range(_UNTIMED_STEPS + timed)]
    for slot in slots:
        runner.close(slot)
    kept = took_ms[_UNTIMED_STEPS:]
    return BatchTiming(
        batch=batch,
        median_ms=statistics.median(kept),
        p99_ms=float(np.percentile(kept, 99)),
        codec_ms=_codec_ms(loaded, batch),
    )


def _took_ms(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - started_s)


@torch.inference_mode()
def _codec_ms(loaded: LoadedModel, batch: int) -> float:
    """Time the codec alone, on streams whose rings are full."""
    codec, (device, dtype) = loaded.codec, (loaded.placement.device, loaded.placement.dtype)
    state = codec.open_state(batch, device=device, dtype=dtype)
    state.positions.fill_(2 * loaded.config.codec.sliding_window)
    codes = torch.zeros(batch, loaded.config.codebooks, dtype=torch.int64, device=device)
    rows = torch.arange(batch, device=device)
    if device.type == "cuda":
        from csm_trio.engine.graphs import captured, codec_kernels

        kernels = codec_kernels(loaded.config, device)
        work = captured(lambda: codec.decode(codes, rows, state, kernels=kernels)).replay
    else:

        def work() -> None:
            for group in torch.split(rows, CODEC_ROWS):
                codec.decode(codes[group], group, state)

    def once() -> None:
        work()
        wait_for(device)

    return statistics.median(_took_ms(once) for _ in range(_CODEC_ROUNDS))


def _time_prefills(loaded: LoadedModel, runner: TorchRunner) -> list[PrefillTiming]:
    most = loaded.config.backbone.max_positions // 2
    timings = []
    for positions in sorted({min(positions, most) for positions in _PREFILL_POSITIONS}):
        for prompts in sorted({1, min(runner.opens_per_step, runner.slots)}):
            batch = [(slot, _prompted(loaded, positions)) for slot in range(prompts)]

            def once(batch: list[tuple[int, Utterance]] = batch) -> None:
                runner.open(batch)
                runner.fill()
                wait_for(loaded.placement.device)

            took_ms = [_took_ms(once) for _ in range(_PREFILL_ROUNDS)]
            timings.append(PrefillTiming(prompts, positions, statistics.median(took_ms)))
            for slot in range(prompts):
                runner.close(slot)
    return timings


def _prompted(loaded: LoadedModel, positions: int) -> Utterance:
    """Make an utterance whose prompt has exactly so many positions, most of them audio."""
    tokenizer = loaded.tokenizer
    texts = len(tokenizer.encode("A.", speaker_id=0)) + len(tokenizer.encode("B.", speaker_id=0))
    frames = positions - texts - 1  # the turn's end-of-speech frame
    codes = np.zeros((max(1, frames), loaded.config.codebooks), np.int16)
    return Utterance("B.", 0, 8, Sampling(seed=1), (Turn(0, "A.", codes),))


def _memory(device: torch.device) -> tuple[int, int]:
    if device.type != "cuda":
        return 0, 0
    return torch.cuda.memory_allocated(device), torch.cuda.max_memory_reserved(device)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)"


def _copy_bytes_per_s(device: torch.device) -> float:
    """Measure a large copy, counting bytes read and bytes written."""
    size = _COPIED_BYTES.get(device.type, 1 << 27)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def once() -> None:
        target.copy_(source)
        wait_for(device)

    once()
    return 2e3 * size / min(_took_ms(once) for _ in range(10))


def _time_peer(loaded: LoadedModel, batch: int) -> PeerTiming:
    peer = TransformersPeer(
        loaded.folder, device=loaded.placement.device, dtype=loaded.placement.dtype
    )
    return PeerTiming("transformers generate", batch, peer.frame_ms(batch))
