"""GGUF tensors come out as ggml defines them; other files come out as one sentence."""

import logging
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.errors import StartupError
from csm_trio.model.checkpoint.gguf import dequantize_q8_0, gguf_names, open_gguf

CPU = torch.device("cpu")


def _write(path: Path, data: np.ndarray, kind: GGMLQuantizationType) -> Path:
    writer = GGUFWriter(path, arch="csm")
    writer.add_tensor("x.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _read(path: Path) -> torch.Tensor:
    ((name, shape, load),) = list(open_gguf(path))
    tensor = load(CPU)
    assert name == "x.weight"
    assert tuple(tensor.shape) == shape
    return tensor


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 5), blocks=st.integers(1, 4))
def test_q8_0_equals_gguf_s_own_dequantization(seed: int, rows: int, blocks: int) -> None:
    values = np.random.default_rng(seed).normal(size=(rows, 32 * blocks)).astype(np.float32)
    packed = gguf.quants.quantize(values, GGMLQuantizationType.Q8_0)
    theirs = gguf.quants.dequantize(packed, GGMLQuantizationType.Q8_0)
    ours = dequantize_q8_0(torch.from_numpy(packed), values.shape)
    assert torch.equal(ours, torch.from_numpy(theirs))


def test_a_block_of_zeros_is_zeros() -> None:
    packed = gguf.quants.quantize(np.zeros((1, 32), np.float32), GGMLQuantizationType.Q8_0)
    assert not dequantize_q8_0(torch.from_numpy(packed), (1, 32)).any()


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (GGMLQuantizationType.F32, torch.float32),
        (GGMLQuantizationType.F16, torch.float16),
        (GGMLQuantizationType.BF16, torch.bfloat16),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_unquantized_tensors_keep_type_shape_and_values(
    kind: GGMLQuantizationType, dtype: torch.dtype, tmp_path: Path
) -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    path = _write(tmp_path / "x.gguf", gguf.quants.quantize(values, kind), kind)
    tensor = _read(path)
    assert tensor.dtype == dtype
    assert torch.equal(tensor.float(), torch.from_numpy(values))


def test_what_is_read_outlives_the_file(tmp_path: Path) -> None:
    values = np.arange(8, dtype=np.float32)
    path = _write(tmp_path / "x.gguf", values, GGMLQuantizationType.F32)
    tensor = _read(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(tensor, torch.from_numpy(values))


def test_q4_k_is_read_as_ggml_defines_it_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocks = np.random.default_rng(0).integers(0, 64, size=(2, 144), dtype=np.uint8)
    path = _write(tmp_path / "x.gguf", blocks, GGMLQuantizationType.Q4_K)
    with caplog.at_level(logging.WARNING, logger="csm_trio.model.checkpoint.gguf"):
        tensor = _read(path)
    theirs = gguf.quants.dequantize(blocks, GGMLQuantizationType.Q4_K)
    assert torch.equal(tensor, torch.from_numpy(theirs))
    assert [record.message for record in caplog.records if "csm.rs" in record.message]


def test_names_are_listed_without_reading(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.gguf", np.zeros(4, np.float32), GGMLQuantizationType.F32)
    assert gguf_names(path) == ["x.weight"]


def test_an_unknown_type_is_one_sentence(tmp_path: Path) -> None:
    data = np.ones((1, 32), np.int8)
    path = _write(tmp_path / "x.gguf", data, GGMLQuantizationType.I8)
    for read in (gguf_names, lambda path: list(open_gguf(path))):
        with pytest.raises(StartupError, match=r"x\.weight of .* has the type I8, which"):
            read(path)


QUANTIZED = [
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "IQ4_NL",
]


@pytest.mark.parametrize("name", QUANTIZED)
def test_every_block_type_equals_gguf_s_own_dequantization(name: str, tmp_path: Path) -> None:
    kind = GGMLQuantizationType[name]
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    # Small bytes: as f16 scales they are finite.
    blocks = np.random.default_rng(1).integers(0, 60, (3, 2 * block_bytes)).astype(np.uint8)
    tensor = _read(_write(tmp_path / "x.gguf", blocks, kind))
    assert tensor.dtype == torch.float32
    theirs = gguf.quants.dequantize(blocks, kind).astype(np.float32)
    assert torch.equal(tensor, torch.from_numpy(theirs))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"GG",
        lambda content: b"NOPE" + content[4:],
        lambda content: content[:4] + b"\x63" + content[5:],
        lambda content: content[:30],
        lambda content: content[:-8],
    ],
    ids=["empty", "two bytes", "magic", "version", "header", "data"],
)
def test_a_damaged_file_is_one_sentence(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = _write(tmp_path / "x.gguf", np.ones(64, np.float32), GGMLQuantizationType.F32)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StartupError, match=r"x\.gguf is no complete GGUF file"):
        list(open_gguf(path))


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="cannot be read: No such file"):
        list(open_gguf(tmp_path / "none.gguf"))
