"""Every flavor of a checkpoint loads to the same tensors; damaged ones to one sentence."""

import json
import logging
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file, save_file
from transformers import CsmConfig, CsmForConditionalGeneration

from csm_trio.errors import StartupError
from csm_trio.model.checkpoint.load_weights import kept_as, load_weights
from csm_trio.model.checkpoint.locate import CheckpointFiles, locate_checkpoint
from csm_trio.model.checkpoint.read_config import csm_1b_config, read_config
from csm_trio.model.checkpoint.tensor_names import AUDIO_EMBEDDINGS, TEXT_EMBEDDINGS
from csm_trio.model.checkpoint.tensor_shapes import expected_shapes
from csm_trio.model.config import CSMConfig
from csm_trio.model.int4_matrix import Int4Matrix
from csm_trio.model.linear import Int8Matrix, Quantization
from support.csm_flavors import (
    BACKBONE_EMBEDDINGS,
    DEPTH_EMBEDDINGS,
    read_tensors,
    write_codec,
    write_gguf,
    write_sesame,
    write_sharded,
    write_single,
)
from support.tiny_csm import load_reference, write_tiny_checkpoint

CPU = torch.device("cpu")
NEEDLESS = ("codec_model.encoder", "codec_model.downsample")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def expected(tiny: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for name, tensor in read_tensors(tiny).items()
        if not name.startswith(NEEDLESS) and not name.endswith(("input_proj.weight", "initialized"))
    }


def _locate(path: Path) -> tuple[CheckpointFiles, CSMConfig]:
    files = locate_checkpoint(weights_path=path, model_id=None, model_file=None)
    return files, read_config(files.config, files.generation_config)


def _load(path: Path, kept: torch.dtype | Quantization = torch.float32) -> dict[str, torch.Tensor]:
    files, config = _locate(path)
    if isinstance(kept, torch.dtype):
        return load_weights(files, config, device=CPU, dtype=kept)
    return load_weights(files, config, device=CPU, dtype=torch.float32, quantization=kept)


def _assert_equal(loaded: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(loaded[name], tensor), name


def _index(source: Path, folder: Path) -> Path:
    return write_sharded(source, folder, index_name="model.safetensors.index.json")


def _transformers_index_beside_sesame(source: Path, folder: Path) -> Path:
    """Lay a folder out as `sesame/csm-1b`; the single file is damaged, so it cannot be the one."""
    write_sharded(source, folder, index_name="transformers.safetensors.index.json")
    (folder / "model.safetensors").write_bytes(b"not to be read")
    return folder


def _codec_apart(source: Path, folder: Path) -> Path:
    write_sesame(source, folder, with_codec=False)
    write_codec(source, folder / "codec")
    return folder


def _codec_from_a_csm(source: Path, folder: Path) -> Path:
    write_sesame(source, folder, with_codec=False)
    write_single(source, folder / "codec", embeddings=(BACKBONE_EMBEDDINGS,))
    return folder


FLAVORS: dict[str, Callable[[Path, Path], Path]] = {
    "as saved": lambda source, _: source,
    "backbone's name": lambda s, f: write_single(s, f, embeddings=(BACKBONE_EMBEDDINGS,)),
    "depth's name": lambda s, f: write_single(s, f, embeddings=(DEPTH_EMBEDDINGS,)),
    "both names": lambda s, f: write_single(
        s, f, embeddings=(BACKBONE_EMBEDDINGS, DEPTH_EMBEDDINGS)
    ),
    "shards": _index,
    "shards beside Sesame's file": _transformers_index_beside_sesame,
    "the index itself": lambda s, f: _index(s, f) / "model.safetensors.index.json",
    "one file": lambda source, _: source / "model.safetensors",
    "Sesame's names": write_sesame,
    "codec in its own file": _codec_apart,
    "codec in another CSM": _codec_from_a_csm,
}


@pytest.mark.parametrize("flavor", FLAVORS)
def test_every_safetensors_flavor_loads_to_the_same_tensors(
    flavor: str, tiny: Path, expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    _assert_equal(_load(FLAVORS[flavor](tiny, tmp_path / "flavor")), expected)


@pytest.mark.parametrize("sesame", [False, True], ids=["transformers", "sesame"])
@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [
        (GGMLQuantizationType.F32, 0.0),
        (GGMLQuantizationType.F16, 2.0**-11),
        (GGMLQuantizationType.BF16, 2.0**-8),
        (GGMLQuantizationType.Q8_0, 1.0 / 254 + 2.0**-10),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_every_gguf_type_loads_within_its_rounding(
    kind: GGMLQuantizationType,
    tolerance: float,
    sesame: bool,
    tiny: Path,
    expected: dict[str, torch.Tensor],
    tmp_path: Path,
) -> None:
    folder = write_single(tiny, tmp_path / "flavor", embeddings=(BACKBONE_EMBEDDINGS,))
    (folder / "model.safetensors").unlink()
    write_gguf(tiny, folder / "any.gguf", kind, sesame=sesame)
    loaded = _load(folder)
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        error = (loaded[name] - tensor).abs().max()
        assert error <= tolerance * tensor.abs().max(), name


@pytest.mark.parametrize("flavor", ["as saved", "shards", "Sesame's names"])
@pytest.mark.parametrize("quantization", Quantization)
def test_quantization_rounds_the_layers_matrices_of_every_flavor(
    quantization: Quantization,
    flavor: str,
    tiny: Path,
    expected: dict[str, torch.Tensor],
    tmp_path: Path,
) -> None:
    loaded = _load(FLAVORS[flavor](tiny, tmp_path / "flavor"), quantization)
    assert loaded.keys() == expected.keys()
    rounded = {
        name: kept for name, kept in loaded.items() if isinstance(kept, Int8Matrix | Int4Matrix)
    }
    assert len(rounded) == 7 * (2 + 2)
    int4 = {name for name, kept in rounded.items() if isinstance(kept, Int4Matrix)}
    assert int4 == {
        name
        for name in rounded
        if quantization == "int4" and ".mlp." in name  # its attention is small
    }
    for name, kept in rounded.items():
        again = type(kept).rounded(expected[name])
        assert torch.equal(kept, again), name
        assert torch.equal(kept.scale, again.scale), name
    tables = [name for name, kept in loaded.items() if kept.dtype == torch.bfloat16]
    assert sorted(tables) == sorted((TEXT_EMBEDDINGS, AUDIO_EMBEDDINGS))
    others = loaded.keys() - rounded.keys() - set(tables)
    assert all(torch.equal(loaded[name], expected[name]) for name in others)


def test_a_q8_0_file_is_rounded_again_a_row_at_a_time(
    tiny: Path, expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    folder = write_single(tiny, tmp_path / "flavor", embeddings=(BACKBONE_EMBEDDINGS,))
    (folder / "model.safetensors").unlink()
    write_gguf(tiny, folder / "any.gguf", GGMLQuantizationType.Q8_0, sesame=False)
    for name, kept in _load(folder, Quantization.INT8).items():
        if not isinstance(kept, Int8Matrix):
            continue
        scale = kept.scale.float()[:, None]
        error = (kept[:, : kept.inputs] * scale - expected[name]).abs().amax(1, keepdim=True)
        # Half a step of this rounding, and of the file's in blocks of 32 with their f16 scales.
        blocks = expected[name].abs().amax(1, keepdim=True) * (1 / 254 + 2.0**-10)
        assert (error <= scale / 2 + blocks).all(), name


def test_transformers_reads_the_same_values_under_the_same_names(tiny: Path) -> None:
    loaded = _load(tiny)
    module = load_reference(tiny).state_dict()
    halves = {name for name in loaded if not name.startswith("codec_model.")}
    assert halves == {
        name for name in module if not name.startswith("codec_model.") and name != DEPTH_EMBEDDINGS
    }
    for name in halves:
        assert torch.equal(loaded[name], module[name]), name


def test_full_size_shapes_are_those_of_transformers_model() -> None:
    scaled_rope = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 32.0,
        "low_freq_factor": 0.125,
        "high_freq_factor": 0.5,
        "original_max_position_embeddings": 1024,
    }
    with torch.device("meta"):
        reference: Any = CsmForConditionalGeneration(CsmConfig(rope_parameters=scaled_rope))
    module = {
        name: tuple(tensor.shape)
        for name, tensor in reference.state_dict().items()
        if not name.startswith("codec_model.") and name != DEPTH_EMBEDDINGS
    }
    shapes = expected_shapes(csm_1b_config())
    halves = {k: v for k, v in shapes.items() if not k.startswith("codec_model.")}
    assert halves == module
    parameters = sum(torch.Size(shape).numel() for shape in halves.values())
    assert parameters == 1_552_791_552


def test_the_full_size_codec_has_mimis_decoding_parameters() -> None:
    with torch.device("meta"):
        reference: Any = CsmForConditionalGeneration(CsmConfig()).codec_model
    kept = sum(
        tensor.numel()
        for name, tensor in reference.state_dict().items()
        if not name.startswith(("encoder", "downsample"))
        and not name.endswith(("input_proj.weight", "initialized"))
    )
    shapes = expected_shapes(csm_1b_config())
    codec = {k: v for k, v in shapes.items() if k.startswith("codec_model.")}
    assert sum(torch.Size(shape).numel() for shape in codec.values()) == kept


def test_the_type_is_the_one_asked_for_and_the_codec_stays_f32(tiny: Path) -> None:
    for name, tensor in _load(tiny, torch.bfloat16).items():
        codec = name.startswith("codec_model.")
        assert tensor.dtype == (torch.float32 if codec else torch.bfloat16), name


def test_the_embedded_voice_loads_whole() -> None:
    files = locate_checkpoint(weights_path=None, model_id=None, model_file=None)
    config = read_config(files.config, files.generation_config)
    loaded = load_weights(files, config, device=CPU, dtype=torch.float32)
    assert {name: tuple(tensor.shape) for name, tensor in loaded.items()} == expected_shapes(config)


def test_loading_logs_its_duration(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="csm_trio.model.checkpoint.load_weights"):
        _load(tiny)
    assert any(record.message.startswith(f"Loaded {tiny}") for record in caplog.records)


def _drop(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors")


def _add(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {name: torch.zeros(3)}, folder / "model.safetensors")


def _cut(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {name: tensors[name][1:].clone()}, folder / "model.safetensors")


def _truncate(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES: list[tuple[Callable[[Path, str], None], str, str]] = [
    (_drop, "lm_head.weight", "lacks tensor lm_head.weight."),
    (_drop, BACKBONE_EMBEDDINGS, f"lacks tensor {BACKBONE_EMBEDDINGS}."),
    (_add, "lora.A", "holds tensor lora.A that no CSM of its sizes has."),
    (_cut, "lm_head.weight", "lm_head.weight has the shape [34, 32], but"),
    (_truncate, "model.safetensors", "is no complete safetensors file"),
]


@pytest.mark.parametrize(("damage", "name", "sentence"), DAMAGES)
def test_a_damaged_checkpoint_is_one_sentence(
    damage: Callable[[Path, str], None], name: str, sentence: str, tiny: Path, tmp_path: Path
) -> None:
    folder = write_single(tiny, tmp_path / "damaged", embeddings=(BACKBONE_EMBEDDINGS,))
    damage(folder, name)
    with pytest.raises(StartupError) as caught:
        _load(folder)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


WITH_A_HOLE = [
    "embed_text_tokens.weight",
    BACKBONE_EMBEDDINGS,
    DEPTH_EMBEDDINGS,
    "backbone_model.layers.1.mlp.down_proj.weight",
    "backbone_model.norm.weight",
    "lm_head.weight",
    "depth_decoder.codebooks_head.weight",
    "codec_model.decoder.layers.0.conv.bias",
    "codec_model.quantizer.semantic_residual_vector_quantizer.layers.0.codebook.embed_sum",
]


@pytest.mark.parametrize("name", WITH_A_HOLE)
@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize(
    "kept", [torch.float32, torch.bfloat16, torch.float16, *Quantization], ids=str
)
def test_a_value_that_is_no_finite_number_is_refused_by_its_tensors_name(
    kept: torch.dtype | Quantization, value: float, name: str, tiny: Path, tmp_path: Path
) -> None:
    embeddings = (BACKBONE_EMBEDDINGS, DEPTH_EMBEDDINGS)
    folder = write_single(tiny, tmp_path / "damaged", embeddings=embeddings)
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[-1] = value
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(StartupError) as caught:
        _load(folder, kept)
    assert f"Tensor {name} of {folder} has values that are no finite" in str(caught.value)


@pytest.mark.parametrize("kept", [torch.float32, *Quantization], ids=str)
@pytest.mark.parametrize("kind", [GGMLQuantizationType.F32, GGMLQuantizationType.Q8_0])
def test_a_gguf_value_that_is_no_finite_number_is_refused(
    kind: GGMLQuantizationType, kept: torch.dtype | Quantization, tiny: Path, tmp_path: Path
) -> None:
    damaged = write_single(tiny, tmp_path / "damaged", embeddings=(BACKBONE_EMBEDDINGS,))
    tensors = load_file(damaged / "model.safetensors")
    name = "backbone_model.layers.0.self_attn.q_proj.weight"
    tensors[name][3, 3] = math.inf
    save_file(tensors, damaged / "model.safetensors")
    with np.errstate(invalid="ignore"):
        write_gguf(damaged, damaged / "any.gguf", kind)
    with pytest.raises(StartupError, match=rf"Tensor {re.escape(name)} of .* no finite"):
        _load(damaged / "any.gguf", kept)


def test_a_value_beyond_float16_is_refused_in_float16_alone(tiny: Path, tmp_path: Path) -> None:
    folder = write_single(tiny, tmp_path / "large", embeddings=(BACKBONE_EMBEDDINGS,))
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"][0, 0] = 1e6
    save_file(tensors, folder / "model.safetensors")
    _load(folder, torch.bfloat16)
    with pytest.raises(StartupError, match=r"lm_head\.weight .* no finite numbers in float16"):
        _load(folder, torch.float16)


def test_many_missing_tensors_are_counted_and_the_first_named(tiny: Path) -> None:
    files, config = _locate(tiny)
    deeper = replace(config, backbone=replace(config.backbone, layers=4))
    with pytest.raises(
        StartupError, match=r"lacks 18 tensors, among them backbone_model\.layers\.2"
    ):
        load_weights(files, deeper, device=CPU, dtype=torch.float32)


def test_weights_of_other_sizes_than_the_configuration_are_refused(
    tiny: Path, tmp_path: Path
) -> None:
    folder = write_single(tiny, tmp_path / "odd", embeddings=(BACKBONE_EMBEDDINGS,))
    config = json.loads((folder / "config.json").read_text())
    config["text_vocab_size"] = 300
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(StartupError, match=r"embed_text_tokens\.weight has the shape \[264, 32\]"):
        _load(folder)


@pytest.mark.parametrize(
    ("name", "inputs", "kind"),
    [
        ("depth_decoder.model.layers.3.self_attn.q_proj.weight", 1024, Int4Matrix),
        ("depth_decoder.model.layers.3.self_attn.o_proj.weight", 1024, Int4Matrix),
        ("depth_decoder.model.layers.3.self_attn.o_proj.weight", 192, Int8Matrix),
        ("depth_decoder.model.layers.3.mlp.up_proj.weight", 192, Int4Matrix),
        ("backbone_model.layers.0.self_attn.k_proj.weight", 2048, Int8Matrix),
        ("backbone_model.layers.0.mlp.down_proj.weight", 8192, Int4Matrix),
    ],
)
def test_int4_is_for_the_mlps_and_for_attention_of_the_depth_decoder_that_is_not_small(
    name: str, inputs: int, kind: type
) -> None:
    tensor = torch.randn(16, inputs, generator=torch.Generator().manual_seed(0))
    assert type(kept_as(name, tensor, torch.float32, Quantization.INT4)) is kind


@pytest.mark.parametrize("kept", [torch.float32, *Quantization], ids=str)
def test_two_names_for_one_tensor_must_agree(
    kept: torch.dtype | Quantization, tiny: Path, tmp_path: Path
) -> None:
    tensors = load_file(tiny / "model.safetensors")
    for sesame, own in (
        ("codebook0_head.weight", "lm_head.weight"),
        ("decoder.layers.1.mlp.w2.weight", "depth_decoder.model.layers.1.mlp.down_proj.weight"),
    ):
        folder = tmp_path / sesame
        shutil.copytree(tiny, folder)
        both = {**tensors, sesame: tensors[own].clone()}
        save_file(both, folder / "model.safetensors", metadata={"format": "pt"})
        _load(folder, kept)
        both[sesame] *= -1
        save_file(both, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(
            StartupError, match="twice, perhaps under another name, and they differ"
        ):
            _load(folder, kept)
