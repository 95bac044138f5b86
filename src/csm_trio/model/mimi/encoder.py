"""Encode voice clips to codes with the checkpoint's own codec, by transformers.

In: a checkpoint's files and 24 kHz samples. Out: the codes of a prompt segment. Used only while a
server starts; it must not know slots or prompts.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from csm_trio.errors import StartupError
from csm_trio.model.checkpoint.locate import CheckpointFiles
from csm_trio.model.checkpoint.read_config import codec_config
from csm_trio.model.checkpoint.tensor_files import check_finite, open_tensors, tensor_names
from csm_trio.model.checkpoint.tensor_names import CODEC_PREFIX
from csm_trio.timebase import FRAME_SAMPLES

# The decoding half, and tensors that only training reads.
_UNUSED = re.compile(r"(decoder|upsample)|.*\.initialized$")


class ClipEncoder:
    """Mimi on the CPU in float32, on every device of the server."""

    def __init__(self, files: CheckpointFiles) -> None:
        """Load the codec. Raises StartupError if it has no encoding half, or NaN in it."""
        # Imported here: a server without voice clips does not need transformers' models.
        from transformers import MimiModel
        from transformers.utils import logging as transformers_logging

        # It would report the unused decoding half as missing; the check below is exact.
        transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        mimi: Any = MimiModel
        model, report = mimi.from_pretrained(
            None,
            config=codec_config(files.config),
            state_dict=_codec_tensors(files),
            output_loading_info=True,
        )
        missing = [name for name in report["missing_keys"] if not _UNUSED.match(name)]
        if missing:
            raise StartupError(
                f"{files.name} holds no codec that encodes ({min(missing)} is missing): "
                "voices with clips need one."
            )
        self._model = model.eval()

    @torch.inference_mode()
    def encode(self, pcm: npt.NDArray[np.float32], *, codebooks: int) -> npt.NDArray[np.int16]:
        """Encode samples [n] within [-1, 1] to codes [frames, codebooks].

        The last frame is padded with silence, as in moshi, which Sesame uses: transformers would
        pad every convolution instead, and the codes of the last frame would differ.
        """
        padded = np.pad(pcm, (0, -len(pcm) % FRAME_SAMPLES))
        samples = torch.from_numpy(padded)[None, None]  # [1, 1, samples]
        codes = self._model.encode(samples, num_quantizers=codebooks).audio_codes[0]
        return np.ascontiguousarray(codes.T.to(torch.int16).numpy())


def _codec_tensors(files: CheckpointFiles) -> dict[str, torch.Tensor]:
    paths: tuple[Path, ...] = files.codec or files.weights
    tensors: dict[str, torch.Tensor] = {}
    for path in paths:
        inside = any(name.startswith(CODEC_PREFIX) for name in tensor_names(path))
        for stored in open_tensors(path):
            if not inside or stored.name.startswith(CODEC_PREFIX):
                name = stored.name.removeprefix(CODEC_PREFIX)
                if not _UNUSED.match(name):
                    tensors[name] = stored.load(torch.device("cpu")).float()
                    check_finite(files.name, stored.name, tensors[name])
    return tensors
