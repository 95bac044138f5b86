"""Time the engine alone: no sockets, no scheduler; the host waits for every step.

In: engine settings and batch sizes. Out: an `EngineTiming`, and log lines meanwhile. It must not
know servers or clients.
"""

import gc
import logging
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from csm_trio.bench.engine.report import BaselineTiming, BatchTiming, EngineTiming, PrefillTiming
from csm_trio.bench.engine.transformers_baseline import TransformersBaseline
from csm_trio.config import EngineConfig
from csm_trio.engine.byte_size import format_bytes
from csm_trio.engine.cuda_graph import capture_graph
from csm_trio.engine.load import LoadedModel, default_slots, load_model, warm_runner
from csm_trio.engine.memory import (
    available_bytes,
    checkpoint_bytes,
    fitting_slots,
    slot_bytes,
    weight_bytes,
)
from csm_trio.engine.placement import Placement
from csm_trio.engine.runner import TorchRunner
from csm_trio.engine.step_eager import CODEC_ROWS
from csm_trio.engine.utterance import PromptSegment, Sampling, Utterance
from csm_trio.errors import SpeechError, StartupError
from csm_trio.model.linear import stored_bytes
from csm_trio.model.progress import Progress

logger = logging.getLogger(__name__)

_TEXT = "The quick brown fox jumps over the lazy dog."
_UNTIMED_STEPS = 5
_CODEC_ROUNDS = 10
_PREFILL_ROUNDS = 7
_MAX_TIMING_S = 5.0
_PREFILL_POSITIONS = (64, 256, 1024)
_COPIED_BYTES = {"cuda": 1 << 30, "cpu": 1 << 27}
_CUDA_BATCHES = (1, 8, 64, 256, 512)
_OTHER_BATCHES = (1, 2, 4, 8)
_BASELINE_FACTOR = 1.25
"""Memory of the transformers model, which includes the codec's encoder, per byte of weights."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Batch sizes to time, timed steps for each, and batch sizes of the transformers baseline.

    Without `batches`, some sizes that fit into the pool, or into the default pool of `serve`;
    without `baseline_batches`, the smallest and the largest of them.
    """

    batches: tuple[int, ...] | None = None
    steps: int = 50
    baseline_batches: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class _BaselineInput:
    """The data that the transformers baseline needs after the engine is released."""

    folder: Path | None
    placement: Placement
    needed_bytes: int


def measure_engine(config: EngineConfig, plan: Plan) -> EngineTiming:
    """Load the model of the settings and time it; the pool has the largest batch's size.

    The transformers baseline comes last, after the engine has released the device. Raises
    StartupError if the model cannot be loaded or the slots do not fit.
    """
    timing, baseline = _measure_alone(config, plan)
    # The warm-up froze the engine's objects: its cycles would stay in memory beside the baseline.
    gc.unfreeze()
    gc.collect()
    batches = [row.batch for row in timing.batches]
    baseline_batches = plan.baseline_batches
    if baseline_batches is None:
        baseline_batches = tuple(sorted({min(batches), max(batches)}))
    try:
        return replace(timing, baselines=_time_baseline(baseline, baseline_batches))
    except StartupError as error:
        return replace(timing, notes=(f"transformers generate: not measured. {error}",))


def _measure_alone(config: EngineConfig, plan: Plan) -> tuple[EngineTiming, _BaselineInput]:
    started_s = time.perf_counter()
    loaded = load_model(config)
    device, dtype = loaded.placement.device, loaded.placement.dtype
    wait_for(device)
    loaded_s = time.perf_counter()
    weights = weight_bytes(loaded.model, loaded.codec)
    per_slot = slot_bytes(loaded.config, loaded.codec, dtype)
    batches = plan.batches or _default_batches(config, loaded, per_slot)
    pool_size = config.pool_size or max(batches)
    if max(batches) > pool_size:
        raise StartupError(f"--pool-size {pool_size}: no batch of {max(batches)} fits into it.")
    runner = warm_runner(loaded, pool_size)
    wait_for(device)
    warm_s = time.perf_counter()
    timing = EngineTiming(
        device=_device_name(device),
        dtype=loaded.placement.weights,
        model=loaded.name,
        torch=torch.__version__,
        slots=pool_size,
        load_s=loaded_s - started_s,
        warm_up_s=warm_s - loaded_s,
        weight_bytes=weights,
        slot_bytes=per_slot,
        batches=tuple(_time_batch(loaded, runner, batch, plan.steps) for batch in batches),
        prefills=tuple(_time_prefills(loaded, runner)),
        peak_bytes=_peak_bytes(device),
        frame_bytes=frame_bytes(loaded),
        copy_bytes_per_s=_copy_bytes_per_s(device),
    )
    needed = round(_BASELINE_FACTOR * checkpoint_bytes(loaded.config, dtype))
    return timing, _BaselineInput(loaded.folder, loaded.placement, needed)


def _default_batches(config: EngineConfig, loaded: LoadedModel, per_slot: int) -> tuple[int, ...]:
    """Choose batch sizes up to the pool's, or up to the slots that fit on the device."""
    device = loaded.placement.device
    on_cuda = device.type == "cuda"
    fitting = fitting_slots(per_slot, device) if on_cuda else None
    limit = config.pool_size or (default_slots(loaded) if fitting is None else max(1, fitting))
    return tuple(size for size in (_CUDA_BATCHES if on_cuda else _OTHER_BATCHES) if size <= limit)


def frame_bytes(loaded: LoadedModel) -> int:
    """Count the bytes of weights that a frame reads, the depth decoder's once for each codebook."""
    model, steps = loaded.model, loaded.config.codebooks - 1

    def size(tensors: Sequence[torch.Tensor]) -> int:
        return sum(stored_bytes(tensor) for tensor in tensors)

    depth = size([tensor for layer in model.depth.blocks for tensor in layer.parameters()])
    once = [tensor for layer in model.backbone.blocks for tensor in layer.parameters()]
    once += [model.first_head, model.depth_projector, *model.depth_heads]
    once += loaded.codec.parameters()
    return size(once) + steps * depth


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _time_batch(loaded: LoadedModel, runner: TorchRunner, batch: int, steps: int) -> BatchTiming:
    max_frames = loaded.config.backbone.max_positions // 2
    utterance = Utterance(_TEXT, 0, max_frames, Sampling(temperature=0.9, top_k=50, seed=1))
    slots = range(batch)
    for first in range(0, batch, runner.max_prefills_per_step):
        opened = slots[first : first + runner.max_prefills_per_step]
        _open(loaded, runner, [(slot, utterance) for slot in opened])
    timed = min(steps, max_frames - _UNTIMED_STEPS)
    progress = Progress(logger, f"batch of {batch}", _UNTIMED_STEPS + timed, "steps")
    took_ms = []
    for step in range(_UNTIMED_STEPS + timed):
        took_ms.append(_took_ms(partial(runner.step, slots)))
        progress.note(step + 1)
    for slot in slots:
        runner.close(slot)
    kept = took_ms[_UNTIMED_STEPS:]
    median_ms = statistics.median(kept)
    logger.info("batch of %d: %.2f ms a frame, median of %d", batch, median_ms, timed)
    return BatchTiming(
        batch=batch,
        steps=timed,
        median_ms=median_ms,
        p99_ms=float(np.percentile(kept, 99)),
        codec_ms=_codec_ms(loaded, batch),
    )


def _open(loaded: LoadedModel, runner: TorchRunner, batch: list[tuple[int, Utterance]]) -> None:
    for outcome in runner.open(batch):
        if isinstance(outcome, SpeechError):
            positions = loaded.config.backbone.max_positions
            raise StartupError(f"--max-positions {positions}: too few for the timed sentence.")
    runner.prefill_all()


def _median_ms(work: Callable[[], object], rounds: int) -> float:
    """Return the median time of `rounds` rounds of `work`; of fewer beyond 5 s in all."""
    took_ms: list[float] = []
    while len(took_ms) < rounds and sum(took_ms) < 1e3 * _MAX_TIMING_S:
        took_ms.append(_took_ms(work))
    return statistics.median(took_ms)


def _took_ms(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - started_s)


@torch.inference_mode()
def _codec_ms(loaded: LoadedModel, batch: int) -> float:
    """Time the codec alone, with full ring buffers."""
    codec, device = loaded.codec, loaded.placement.device
    state = codec.open_state(batch, device=device, dtype=codec.dtype)
    state.positions.fill_(2 * loaded.config.codec.sliding_window)
    codes = torch.zeros(batch, loaded.config.codebooks, dtype=torch.int64, device=device)
    rows = torch.arange(batch, device=device)
    if device.type == "cuda":
        from csm_trio.engine.step_graphed import codec_kernels

        kernels = codec_kernels(loaded.config, device)
        work = capture_graph(lambda: codec.decode(codes, rows, state, kernels=kernels)).replay
    else:

        def work() -> None:
            for group in torch.split(rows, CODEC_ROWS):
                codec.decode(codes[group], group, state)

    def once() -> None:
        work()
        wait_for(device)

    return _median_ms(once, _CODEC_ROUNDS)


def _time_prefills(loaded: LoadedModel, runner: TorchRunner) -> list[PrefillTiming]:
    max_positions = loaded.config.backbone.max_positions // 2
    timings = []
    for positions in sorted({min(positions, max_positions) for positions in _PREFILL_POSITIONS}):
        for prompts in sorted({1, min(runner.max_prefills_per_step, runner.slots)}):
            batch = [(slot, _prompted(loaded, positions)) for slot in range(prompts)]

            def once(batch: list[tuple[int, Utterance]] = batch) -> None:
                _open(loaded, runner, batch)
                wait_for(loaded.placement.device)

            timings.append(PrefillTiming(prompts, positions, _median_ms(once, _PREFILL_ROUNDS)))
            logger.info("prefill of %d x %d: %.1f ms", prompts, positions, timings[-1].median_ms)
            for slot in range(prompts):
                runner.close(slot)
    return timings


def _prompted(loaded: LoadedModel, positions: int) -> Utterance:
    """Return an utterance whose prompt has exactly `positions` positions, nearly all audio."""
    tokenizer = loaded.tokenizer
    texts = len(tokenizer.encode("A.", speaker_id=0)) + len(tokenizer.encode("B.", speaker_id=0))
    frames = positions - texts - 1  # the segment's end-of-speech frame
    codes = np.zeros((max(1, frames), loaded.config.codebooks), np.int16)
    return Utterance("B.", 0, 8, Sampling(seed=1), (PromptSegment(0, "A.", codes),))


def _peak_bytes(device: torch.device) -> int:
    """Return the peak memory in bytes: on CUDA that of torch, elsewhere of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2)
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type} ({threads} thread{'s' if threads > 1 else ''} on {os.cpu_count()} cores)"


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


def _time_baseline(baseline: _BaselineInput, batches: Sequence[int]) -> tuple[BaselineTiming, ...]:
    """Time transformers on the same weights; raise StartupError if it cannot load them."""
    if not batches:
        return ()
    placement = baseline.placement
    free = available_bytes(placement.device)
    if free is not None and baseline.needed_bytes > free:
        raise StartupError(
            f"It would take {format_bytes(baseline.needed_bytes)}, and {placement.device} has "
            f"{format_bytes(free)} left."
        )
    logger.info("loading the same weights with transformers")
    model = TransformersBaseline(baseline.folder, device=placement.device, dtype=placement.dtype)
    timings = []
    for batch in batches:
        timings.append(BaselineTiming("transformers generate", batch, model.frame_ms(batch)))
        logger.info("transformers, %d rows: %.1f ms a frame", batch, timings[-1].frame_ms)
    return tuple(timings)
