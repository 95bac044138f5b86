"""Clips become the codes that transformers' whole model makes of them, from every flavor."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file, save_file

from csm_trio.errors import StartupError
from csm_trio.model.checkpoint.locate import locate_checkpoint
from csm_trio.model.mimi.encoder import ClipEncoder
from support.csm_flavors import write_codec, write_gguf, write_sesame
from support.tiny_csm import CODEBOOKS, load_reference, write_tiny_checkpoint

FRAMES = 7


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def samples() -> np.ndarray[Any, np.dtype[np.float32]]:
    noise = np.random.default_rng(1).standard_normal(FRAMES * 1920)
    return (0.2 * noise).astype(np.float32)


def encoder_of(weights: Path) -> ClipEncoder:
    files = locate_checkpoint(weights_path=weights, model_id=None, model_file=None)
    return ClipEncoder(files)


def test_codes_equal_transformers_in_every_flavor(
    tiny: Path, tmp_path: Path, samples: np.ndarray[Any, np.dtype[np.float32]]
) -> None:
    reference = load_reference(tiny)
    with torch.inference_mode():
        codes = reference.codec_model.encode(torch.from_numpy(samples)[None, None]).audio_codes
    expected = codes[0].T.numpy()
    assert len(np.unique(expected, axis=0)) > FRAMES // 2
    sesame, in_gguf = tmp_path / "sesame", tmp_path / "gguf" / "x.gguf"
    write_sesame(tiny, sesame, with_codec=False)
    write_codec(tiny, sesame / "codec")
    write_gguf(tiny, in_gguf, GGMLQuantizationType.F32)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(tiny / name, in_gguf.parent)
    for weights in (tiny, in_gguf, sesame):
        made = encoder_of(weights).encode(samples, codebooks=CODEBOOKS)
        assert made.dtype == np.int16
        np.testing.assert_array_equal(made, expected)


def test_silence_fills_the_last_frame_up(
    tiny: Path, samples: np.ndarray[Any, np.dtype[np.float32]]
) -> None:
    encoder = encoder_of(tiny)
    cut, filled = samples[:-700], samples.copy()
    filled[-700:] = 0
    np.testing.assert_array_equal(
        encoder.encode(cut, codebooks=CODEBOOKS), encoder.encode(filled, codebooks=CODEBOOKS)
    )
    assert encoder.encode(cut, codebooks=2).shape == (FRAMES, 2)


def test_a_codec_without_an_encoder_is_a_startup_error(tiny: Path, tmp_path: Path) -> None:
    for path in tiny.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tiny / "model.safetensors")
    kept = {name: t for name, t in tensors.items() if ".encoder" not in name}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StartupError, match="no codec that encodes"):
        encoder_of(tmp_path)


def test_an_encoder_with_nan_is_refused_by_its_tensor(tiny: Path, tmp_path: Path) -> None:
    for path in tiny.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tiny / "model.safetensors")
    name = "codec_model.encoder.layers.0.conv.weight"
    tensors[name][0] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StartupError, match=r"Tensor codec_model\.encoder\..* no finite numbers"):
        encoder_of(tmp_path)
