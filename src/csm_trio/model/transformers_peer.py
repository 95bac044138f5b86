"""The same model by transformers' own `generate`: what the engine is measured beside.

In: a checkpoint's folder, or none for CSM-1B's sizes in noise. Out: milliseconds a frame, without
audio.
"""

import time
from pathlib import Path
from typing import Any

import torch

_PROMPT_IDS = 24
_FRAMES = 8


class TransformersPeer:
    """A loaded `CsmForConditionalGeneration` on a device."""

    def __init__(self, folder: Path | None, *, device: torch.device, dtype: torch.dtype) -> None:
        # Imported here: only who compares pays for importing transformers.
        from transformers import CsmConfig, CsmForConditionalGeneration

        peer: Any = CsmForConditionalGeneration
        if folder is None:
            config: Any = CsmConfig()
            usual = torch.get_default_dtype()
            torch.set_default_dtype(dtype)
            try:
                with torch.device(device):
                    self._model = peer(config).eval()
            finally:
                torch.set_default_dtype(usual)
        else:
            self._model = peer.from_pretrained(folder, dtype=dtype).to(device).eval()
        self._device = device

    @torch.inference_mode()
    def frame_ms(self, batch: int) -> float:
        """Time `generate` for a batch of equal prompts, twice, so that the prefill drops out."""
        ids = torch.ones(batch, _PROMPT_IDS, dtype=torch.int64, device=self._device)
        self._generate(ids, 2)
        (short_s, few), (long_s, many) = self._generate(ids, 2), self._generate(ids, 2 + _FRAMES)
        return 1e3 * (long_s - short_s) / max(1, many - few)

    def _generate(self, ids: torch.Tensor, frames: int) -> tuple[float, int]:
        """Return the seconds it took, and the frames it made before all rows had ended."""
        started_s = time.perf_counter()
        codes = self._model.generate(
            input_ids=ids, max_new_tokens=frames, do_sample=True, depth_decoder_do_sample=True
        ).cpu()  # waits for the device
        return time.perf_counter() - started_s, codes.shape[1]
