"""The transformers baseline: the same model's frame time with transformers' own `generate`.

In: a checkpoint's folder, or None for CSM-1B's sizes with random weights. Out: milliseconds a
frame, without audio.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from csm_trio.errors import StartupError

_PROMPT_IDS = 24
_FRAMES = 8
_ROUNDS = 9
_MAX_TIMING_S = 5.0


class TransformersBaseline:
    """A loaded `CsmForConditionalGeneration` on a device.

    Raises `StartupError` if transformers cannot load the folder, or would fill some tensors with
    random weights because the folder names them differently (GGUF, Sesame's naming).
    """

    def __init__(self, folder: Path | None, *, device: torch.device, dtype: torch.dtype) -> None:
        with _quiet_transformers():
            model = _random_model(device, dtype) if folder is None else _load_model(folder, dtype)
        self._model = model.to(device).eval()
        self._device = device

    @torch.inference_mode()
    def frame_ms(self, batch: int) -> float:
        """Return the time of a frame of `generate` for a batch of equal prompts, in ms.

        Times a short and a long run, whose difference excludes the prefill. Takes the median of
        several such pairs, of fewer beyond 5 s in all.
        """
        ids = torch.ones(batch, _PROMPT_IDS, dtype=torch.int64, device=self._device)
        self._generate(ids, 2)
        started_s = time.perf_counter()
        pairs_ms: list[float] = []
        while len(pairs_ms) < _ROUNDS:
            (short_s, few), (long_s, many) = (
                self._generate(ids, frames) for frames in (2, 2 + _FRAMES)
            )
            pairs_ms.append(1e3 * (long_s - short_s) / max(1, many - few))
            if time.perf_counter() - started_s > _MAX_TIMING_S:
                break
        return statistics.median(pairs_ms)

    def _generate(self, ids: torch.Tensor, frames: int) -> tuple[float, int]:
        """Generate; return the seconds taken, and the number of frames until all rows had ended."""
        started_s = time.perf_counter()
        codes = self._model.generate(
            input_ids=ids, max_new_tokens=frames, do_sample=True, depth_decoder_do_sample=True
        ).cpu()  # waits for the device
        return time.perf_counter() - started_s, codes.shape[1]


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bars and remarks on the configuration."""
    # Imported here, as below: transformers is slow to import and needed for the baseline only.
    from transformers.utils import logging

    transformers_logging: Any = logging
    verbosity, bars = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _random_model(device: torch.device, dtype: torch.dtype) -> Any:
    from transformers import CsmConfig, CsmForConditionalGeneration

    config: Any = CsmConfig()
    default_dtype = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return CsmForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(default_dtype)


def _load_model(folder: Path, dtype: torch.dtype) -> Any:
    from transformers import CsmForConditionalGeneration

    model_class: Any = CsmForConditionalGeneration
    try:
        model, report = model_class.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise StartupError(f"transformers cannot load {folder}: {reason}") from error
    if report["missing_keys"]:
        raise StartupError(f"transformers finds only some of the model's tensors in {folder}.")
    return model
