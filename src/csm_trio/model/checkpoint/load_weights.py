"""Load the tensors of a checkpoint of any flavor as one canonical state dict.

In: the checkpoint's files and the expected sizes. Out: tensors under transformers' names, with
rotate-half RoPE rows, on a device, in a dtype. It must not know where the files came from.
"""

import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from csm_trio.errors import StartupError
from csm_trio.model.checkpoint.locate import CheckpointFiles
from csm_trio.model.checkpoint.tensor_files import (
    StoredTensor,
    check_finite,
    open_tensors,
    tensor_names,
)
from csm_trio.model.checkpoint.tensor_names import (
    AUDIO_EMBEDDINGS,
    CODEC_PREFIX,
    DEPTH_AUDIO_EMBEDDINGS,
    TEXT_EMBEDDINGS,
    CanonicalName,
    canonical_name,
)
from csm_trio.model.checkpoint.tensor_shapes import expected_shapes
from csm_trio.model.config import CSMConfig
from csm_trio.model.int4_matrix import Int4Matrix
from csm_trio.model.linear import Int8Matrix, Quantization
from csm_trio.model.progress import Progress
from csm_trio.model.scaled_matrix import ScaledMatrix

_LAYER_MATRIX = re.compile(r"(backbone_model|depth_decoder\.model)\.layers\..*_proj\.weight$")
_ATTENTION = re.compile(r"(?P<half>\w+)\..*\.self_attn\.")
_MIN_INT4_ATTENTION_INPUTS = 512
"""Attention over fewer inputs stays in int8: in a CPU's cache such matrices are no slower in it."""

_AUDIO_TABLES = (AUDIO_EMBEDDINGS, DEPTH_AUDIO_EMBEDDINGS)
_NAMES_SHOWN = 3

_logger = logging.getLogger(__name__)


def load_weights(
    files: CheckpointFiles,
    config: CSMConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
    quantization: Quantization | None = None,
) -> dict[str, torch.Tensor]:
    """Load the tensors that generation needs, one by one, onto `device`, each as by `kept_as`.

    Flavors: transformers' names (one file or shards; tied audio embeddings under either name or
    both) and Sesame's original names (interleaved RoPE rows, permuted here), in safetensors or
    GGUF. The result holds tied audio embeddings once, as `AUDIO_EMBEDDINGS`, and untied ones as
    `DEPTH_AUDIO_EMBEDDINGS` too; and the codec under `codec_model.` without its encoder. Raises
    `StartupError` for damaged files and for tensors that are missing, unknown, of another shape
    than that of `config`, hold NaN or infinity, or are there twice and differ.
    """
    started_s = time.perf_counter()
    required = expected_shapes(config)
    shapes = required | {DEPTH_AUDIO_EMBEDDINGS: required[AUDIO_EMBEDDINGS]}
    weights: dict[str, torch.Tensor] = {}
    unknown: list[str] = []
    progress = Progress(_logger, f"loading {files.name}", len(required), "tensors")
    for target, stored in _stored_tensors(files):
        shape = shapes.get(target.name)
        if shape is None:
            unknown.append(stored.name)
            continue
        _check_shape(stored, shape)
        tensor = stored.load(device).reshape(shape)
        if target.interleaved:
            tensor = _to_rotate_half(tensor, _head_dim(target.name, config))
        tensor = kept_as(target.name, tensor, dtype, quantization)
        # The scale of a row or a group is not finite where one of its values is not.
        judged = tensor.scale if isinstance(tensor, ScaledMatrix) else tensor
        check_finite(files.name, stored.name, judged)
        _check_same(files.name, stored.name, weights.get(target.name), tensor)
        weights[target.name] = tensor
        if target.name in _AUDIO_TABLES:
            _share_equal_tables(weights)
        progress.note(min(len(weights), len(required)))
    if AUDIO_EMBEDDINGS not in weights and DEPTH_AUDIO_EMBEDDINGS in weights:
        weights[AUDIO_EMBEDDINGS] = weights.pop(DEPTH_AUDIO_EMBEDDINGS)
    _check_complete(files.name, required, weights, unknown)
    parameters = sum(tensor.numel() for tensor in weights.values())
    elapsed_s = time.perf_counter() - started_s
    _logger.info("Loaded %s: %.4g M values in %.1f s.", files.name, parameters / 1e6, elapsed_s)
    return weights


def check_names(checkpoint: str, weights: Sequence[Path], config: CSMConfig) -> None:
    """Raise `StartupError` where files lack a tensor of the language model, by its name alone."""
    found = {
        target.name
        for path in weights
        for name in tensor_names(path)
        if (target := canonical_name(name)) is not None
    }
    if DEPTH_AUDIO_EMBEDDINGS in found:
        found.add(AUDIO_EMBEDDINGS)
    expected = expected_shapes(config)
    missing = [name for name in expected if name not in found and not name.startswith(CODEC_PREFIX)]
    if missing:
        raise StartupError(f"{checkpoint} lacks {_shown(missing)}.")


def kept_as(
    name: str, tensor: torch.Tensor, dtype: torch.dtype, quantization: Quantization | None = None
) -> torch.Tensor:
    """Convert a canonical tensor to the form in which a model keeps it.

    Without quantization that is `dtype`. With it the layers' matrices are `Int8Matrix` or
    `Int4Matrix` (see `Quantization`), the embedding tables bfloat16, and everything else float32.
    The codec is float32 always: it has a dtype of its own, to which it casts sums and products of
    its tensors.
    """
    if name.startswith(CODEC_PREFIX):
        return tensor.float()
    if quantization is None:
        return tensor.to(dtype)
    if name == TEXT_EMBEDDINGS or name in _AUDIO_TABLES:
        return tensor.bfloat16()
    if not _LAYER_MATRIX.match(name):
        return tensor.float()
    if quantization == Quantization.INT4 and _suits_int4(name, inputs=tensor.shape[1]):
        return Int4Matrix.rounded(tensor)
    return Int8Matrix.rounded(tensor)


def _suits_int4(name: str, *, inputs: int) -> bool:
    """Return whether a layer's matrix is rounded to int4 where others are."""
    attention = _ATTENTION.match(name)
    if attention is None:
        return True
    return attention["half"] == "depth_decoder" and inputs >= _MIN_INT4_ATTENTION_INPUTS


def _stored_tensors(files: CheckpointFiles) -> Iterator[tuple[CanonicalName, StoredTensor]]:
    for path in files.weights:
        for stored in open_tensors(path):
            target = canonical_name(stored.name)
            if target is not None:
                yield target, stored
    for path in files.codec:
        yield from _stored_codec(path)


def _stored_codec(path: Path) -> Iterator[tuple[CanonicalName, StoredTensor]]:
    """Yield the codec's tensors of a Mimi file (names without prefix) or of another CSM's file."""
    in_csm = any(name.startswith(CODEC_PREFIX) for name in tensor_names(path))
    for stored in open_tensors(path):
        if in_csm and not stored.name.startswith(CODEC_PREFIX):
            continue
        target = canonical_name(stored.name if in_csm else CODEC_PREFIX + stored.name)
        if target is not None:
            yield target, stored


def _check_shape(stored: StoredTensor, shape: tuple[int, ...]) -> None:
    # GGUF writers drop leading sizes of 1.
    if [size for size in stored.shape if size != 1] != [size for size in shape if size != 1]:
        raise StartupError(
            f"Tensor {stored.name} has the shape {list(stored.shape)}, "
            f"but the configuration requires {list(shape)}."
        )


def _check_same(
    checkpoint: str, name: str, before: torch.Tensor | None, tensor: torch.Tensor
) -> None:
    """Raise `StartupError` where a tensor that was read before, under any name, was another."""
    if before is not None and not torch.equal(before, tensor):
        raise StartupError(
            f"{checkpoint} holds tensor {name} twice, perhaps under another name, and they differ."
        )


def _to_rotate_half(rows: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Reorder a projection's rows from interleaved RoPE pairs to rotate-half RoPE.

    transformers, convert_csm.py: row 2i of a head becomes row i, row 2i + 1 row head_dim / 2 + i.
    """
    pairs = rows.reshape(-1, head_dim // 2, 2, rows.shape[-1])  # [heads, pairs, 2, in]
    return pairs.transpose(1, 2).reshape(rows.shape)


def _head_dim(name: str, config: CSMConfig) -> int:
    half = config.backbone if name.startswith("backbone_model.") else config.depth
    return half.head_dim


def _share_equal_tables(weights: dict[str, torch.Tensor]) -> None:
    """Drop the depth decoder's audio embeddings as soon as they are known to be the backbone's."""
    backbone, depth = (weights.get(name) for name in _AUDIO_TABLES)
    if backbone is not None and depth is not None and torch.equal(backbone, depth):
        del weights[DEPTH_AUDIO_EMBEDDINGS]


def _check_complete(
    checkpoint: str,
    shapes: Mapping[str, tuple[int, ...]],
    weights: Mapping[str, torch.Tensor],
    unknown: list[str],
) -> None:
    missing = [name for name in shapes if name not in weights]
    if missing:
        raise StartupError(f"{checkpoint} lacks {_shown(missing)}.")
    if unknown:
        raise StartupError(f"{checkpoint} holds {_shown(unknown)} that no CSM of its sizes has.")


def _shown(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    if len(names) <= _NAMES_SHOWN:
        return f"{'tensor' if len(names) == 1 else 'tensors'} {shown}"
    return f"{len(names)} tensors, among them {shown}"
