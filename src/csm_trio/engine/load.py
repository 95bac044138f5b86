"""Load a model from settings to a warm runner: placement, weights, slots, warm-up.

Runs on the device thread, as all torch does. Raises StartupError where a model cannot be loaded.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from csm_trio.config import EngineConfig
from csm_trio.engine.alignment_head import find_alignment_head
from csm_trio.engine.cpu_threads import bound_cpu_threads, choose_cpu_threads
from csm_trio.engine.kernel_limits import log_device
from csm_trio.engine.memory import (
    available_bytes,
    check_weights_fit,
    log_taken,
    plan_slots,
    slot_bytes,
    weight_bytes,
)
from csm_trio.engine.placement import Placement, choose_placement, dtype_name
from csm_trio.engine.prefix_cache import prefix_cache_bytes
from csm_trio.engine.prompt import TextTokenizer
from csm_trio.engine.runner import TorchRunner
from csm_trio.engine.triton_cache import KernelCache
from csm_trio.engine.utterance import Sampling, Utterance
from csm_trio.errors import SpeechError, StartupError
from csm_trio.model.attention import AlignmentHead
from csm_trio.model.checkpoint.load_weights import check_names, load_weights
from csm_trio.model.checkpoint.locate import CheckpointFiles, locate_checkpoint
from csm_trio.model.checkpoint.random_weights import random_weights
from csm_trio.model.checkpoint.read_config import csm_1b_config, read_config
from csm_trio.model.config import CSMConfig, MimiConfig
from csm_trio.model.csm import CSM
from csm_trio.model.mimi.decoder import MimiDecoder
from csm_trio.model.mimi.overflow import stays_finite
from csm_trio.model.progress import Progress
from csm_trio.process_tuning import freeze_heap, on_huge_pages

logger = logging.getLogger(__name__)

MAX_AUTO_SLOTS = 64
"""Slots of a pool on CUDA without `--pool-size`, if they fit."""
EMBEDDED_CPU_SLOTS = 4
OTHER_CPU_SLOTS = 1
_WARM_UP_FRAMES = 3


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model on its device, with its codec, tokenizer and checkpoint files."""

    name: str
    config: CSMConfig
    model: CSM
    codec: MimiDecoder
    tokenizer: TextTokenizer
    placement: Placement
    embedded: bool
    folder: Path | None
    """The checkpoint's folder for transformers; None without one."""
    files: CheckpointFiles
    noise: bool = False
    """Whether the weights are random."""


def load_runner(config: EngineConfig) -> TorchRunner:
    """Load the model that the settings name, and warm it up.

    Raises StartupError for what is missing, wrong or not permitted.
    """
    try:
        loaded = load_model(config)
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        raise StartupError(f"The model cannot be loaded: {named}{error.strerror}.") from error
    if loaded.embedded:
        logger.info(
            "using the embedded demonstration voice; for CSM-1B: "
            "csm-trio serve --model-id sesame/csm-1b"
        )
    runner = warm_runner(loaded, config.pool_size)
    logger.info(
        "%s on %s in %s: %d slots; codec in %s",
        loaded.name, loaded.placement.device, loaded.placement.weights, runner.slots,
        dtype_name(loaded.codec.dtype),
    )  # fmt: skip
    return runner


def load_model(config: EngineConfig) -> LoadedModel:
    """Load the model that the settings name, or fill one with random weights."""
    placement = choose_placement(config)
    files = checkpoint_files(config)
    sizes, name = model_sizes(config, files)
    on_cpu = placement.device.type == "cpu"
    if on_cpu:
        bound_cpu_threads(sizes)
    check_weights_fit(name, sizes, placement)
    logger.info("loading %s onto %s in %s", name, placement.device, placement.weights)
    tokenizer = TextTokenizer.from_file(files.tokenizer, text_vocab_size=sizes.text_vocab_size)
    with on_huge_pages() if on_cpu else nullcontext():
        model, codec = _build(config, files, sizes, placement)
    if on_cpu:
        choose_cpu_threads(model, config.pool_size or OTHER_CPU_SLOTS)
    noise = config.random_weights is not None
    embedded = files.embedded and not noise
    folder = None if noise or files.config is None else files.config.parent
    return LoadedModel(
        name, sizes, model, codec, tokenizer, placement, embedded, folder, files, noise
    )


def checkpoint_files(config: EngineConfig) -> CheckpointFiles:
    """Return the files of the model that the settings name; they may be downloaded first."""
    return locate_checkpoint(
        weights_path=config.weights_path,
        model_id=config.model_id,
        model_file=config.model_file,
        check_local=partial(_check_local, has_fallback=config.model_id is not None),
    )


def _check_local(
    name: str, weights: Sequence[Path], config: Path | None, *, has_fallback: bool
) -> None:
    """Judge local files before the Hub is asked for others; raise StartupError.

    Without a configuration beside them the sizes are those of the `--model-id` repository, if one
    is named, and CSM-1B's otherwise.
    """
    if config is not None or not has_fallback:
        check_names(name, weights, read_config(config, None))


def warm_runner(loaded: LoadedModel, pool_size: int | None) -> TorchRunner:
    """Make a runner with `pool_size` slots, by default as many as fit, and make first frames."""
    device = loaded.placement.device
    per_slot = slot_bytes(loaded.config, loaded.codec, loaded.placement.dtype)
    slots = plan_slots(
        pool_size,
        default_slots(loaded),
        weights=weight_bytes(loaded.model, loaded.codec),
        per_slot=per_slot,
        device=device,
        prefixes=prefix_cache_bytes(loaded.config, loaded.placement.dtype.itemsize),
    )
    free_before = available_bytes(device)
    logger.info("making %d slots and warming them up", slots)
    started_s = time.perf_counter()
    kernels = None
    if device.type == "cuda":
        log_device(device)
        kernels = KernelCache.open()
    runner = TorchRunner(
        loaded.config,
        loaded.model,
        loaded.codec,
        loaded.tokenizer,
        slots=slots,
        placement=loaded.placement,
        head=_alignment_head(loaded),
    )
    _warm_up(runner)
    # A garbage collection that walks through the loaded model again would delay a step.
    freeze_heap()
    logger.info("warm after %.1f s", time.perf_counter() - started_s)
    if kernels is not None:
        kernels.log_compiled()
        log_taken(device, planned=(slots + 1) * per_slot, free_before=free_before)
    return runner


def _alignment_head(loaded: LoadedModel) -> AlignmentHead | None:
    """Find the alignment head; return None without one, or where the search fails.

    It fails for a lack of memory, perhaps: the server starts all the same. Noise has no head; any
    is read, so that its steps take as long as those of weights that have one.
    """
    if loaded.noise:
        return AlignmentHead(layer=0, head=0)
    try:
        return find_alignment_head(
            loaded.model, loaded.codec, loaded.tokenizer, loaded.placement.dtype
        )
    except RuntimeError as error:  # torch has one for all that a device cannot do
        logger.warning(
            "no alignment head: the search failed on %s, and timestamps come from the audio "
            "alone: %s",
            loaded.placement.device, error,
        )  # fmt: skip
        return None


def model_sizes(config: EngineConfig, files: CheckpointFiles) -> tuple[CSMConfig, str]:
    """Return the model's sizes, with the KV cache bounded by the settings, and its name."""
    if config.random_weights is not None:
        sizes, name = csm_1b_config(), f"{config.random_weights} noise"
    else:
        sizes, name = read_config(files.config, files.generation_config), files.name
    limit = sizes.backbone.max_positions
    if config.max_positions is None:
        return sizes, name
    if config.max_positions > limit:
        raise StartupError(
            f"--max-positions {config.max_positions}: the model was made for {limit} at most."
        )
    bounded = replace(sizes.backbone, max_positions=config.max_positions)
    return replace(sizes, backbone=bounded), name


def _build(
    config: EngineConfig, files: CheckpointFiles, sizes: CSMConfig, placement: Placement
) -> tuple[CSM, MimiDecoder]:
    device, dtype, quantization = placement.device, placement.dtype, placement.quantization
    if config.random_weights is not None:
        weights = random_weights(sizes, device=device, dtype=dtype, quantization=quantization)
    else:
        weights = load_weights(files, sizes, device=device, dtype=dtype, quantization=quantization)
    model = CSM(sizes, device=placement.device)
    model.load(weights)
    if placement.device.type != "cpu":
        return model, load_finite_codec(sizes.codec, weights, placement)
    codec = load_codec(sizes.codec, weights, placement)
    model.pack(quantized=placement.quantization is not None)
    codec.pack()
    return model, codec


def load_codec(
    sizes: MimiConfig, weights: Mapping[str, Tensor], placement: Placement
) -> MimiDecoder:
    """Load the codec in the placement's `codec_dtype`."""
    codec = MimiDecoder(sizes).to(placement.device, placement.codec_dtype)
    codec.load_tensors(weights)
    return codec


def load_finite_codec(
    sizes: MimiConfig, weights: Mapping[str, Tensor], placement: Placement
) -> MimiDecoder:
    """Load the codec as `load_codec` does, but in f32 where its values overflow in f16."""
    codec = load_codec(sizes, weights, placement)
    if codec.dtype != torch.float16 or stays_finite(codec, sizes):
        return codec
    logger.warning("the codec of these weights overflows in float16: it runs in float32")
    return load_codec(sizes, weights, replace(placement, codec_dtype=torch.float32))


def default_slots(loaded: LoadedModel) -> int:
    """Return how many slots a pool has without `--pool-size`, where they fit."""
    if loaded.placement.device.type == "cuda":
        return MAX_AUTO_SLOTS
    return EMBEDDED_CPU_SLOTS if loaded.embedded else OTHER_CPU_SLOTS


def _warm_up(runner: TorchRunner) -> None:
    """Make a few frames in every slot, so that the first utterance has no warm-up cost in TTFA."""
    utterance = Utterance("Hello.", 0, _WARM_UP_FRAMES, Sampling(seed=0))
    slots = range(runner.slots)
    opened = Progress(logger, "warm-up, prompts", runner.slots, "slots")
    for first in range(0, runner.slots, runner.max_prefills_per_step):
        batch = slots[first : first + runner.max_prefills_per_step]
        for outcome in runner.open([(slot, utterance) for slot in batch]):
            if isinstance(outcome, SpeechError):
                raise StartupError(f"The model cannot speak the warm-up sentence: {outcome}")
        runner.prefill_all()
        opened.note(batch[-1] + 1)
    stepped = Progress(logger, "warm-up, first frames", _WARM_UP_FRAMES, "frames")
    for frame in range(_WARM_UP_FRAMES):
        if any(isinstance(result, SpeechError) for result in runner.step(slots)):
            raise StartupError(
                "The model computes NaN or infinity for the warm-up sentence: its weights are "
                "damaged, or do not fit the type of --dtype."
            )
        stepped.note(frame + 1)
    for slot in slots:
        runner.close(slot)
