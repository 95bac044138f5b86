"""Write one checkpoint again in every flavor that is in use.

In: the folder of a checkpoint in transformers' naming (`tiny_csm`). Out: folders that mean the
same. It must not know how csm_trio reads any of them.
"""

import json
import re
import shutil
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file, save_file

BACKBONE_EMBEDDINGS = "backbone_model.embed_tokens.embed_audio_tokens.weight"
DEPTH_EMBEDDINGS = "depth_decoder.model.embed_tokens.weight"
SMALL_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")

Tensors = dict[str, torch.Tensor]


def read_tensors(folder: Path) -> Tensors:
    """Read `model.safetensors` with tied embeddings under the backbone's name alone."""
    tensors = load_file(folder / "model.safetensors")
    depth_embeddings = tensors.pop(DEPTH_EMBEDDINGS, None)
    if depth_embeddings is None:
        return tensors
    backbone_embeddings = tensors.setdefault(BACKBONE_EMBEDDINGS, depth_embeddings)
    if not torch.equal(backbone_embeddings, depth_embeddings):
        tensors[DEPTH_EMBEDDINGS] = depth_embeddings
    return tensors


def write_single(source: Path, folder: Path, *, embeddings: tuple[str, ...]) -> Path:
    """Write one safetensors file that carries the tied embeddings under these names."""
    _copy_small_files(source, folder)
    tensors = read_tensors(source)
    shared = tensors.pop(BACKBONE_EMBEDDINGS)
    tensors |= {name: shared.clone() for name in embeddings}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_sharded(source: Path, folder: Path, *, index_name: str) -> Path:
    """Write three shards and their index, in the order of the names."""
    _copy_small_files(source, folder)
    tensors = read_tensors(source)
    stem = index_name.removesuffix(".safetensors.index.json")
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for shard in range(3):
        file_name = f"{stem}-{shard + 1:05}-of-00003.safetensors"
        held = names[shard::3]
        save_file({name: tensors[name] for name in held}, folder / file_name)
        weight_map |= dict.fromkeys(held, file_name)
    (folder / index_name).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def write_sesame(source: Path, folder: Path, *, with_codec: bool = True) -> Path:
    """Write Sesame's original naming: interleaved RoPE rows, `audio_head` without a suffix."""
    _copy_small_files(source, folder)
    tensors = sesame_tensors(source)
    if not with_codec:
        tensors = {k: v for k, v in tensors.items() if not k.startswith("codec_model.")}
    save_file(tensors, folder / "model.safetensors")
    return folder


def write_gguf(
    source: Path, path: Path, kind: GGMLQuantizationType, *, sesame: bool = False
) -> Path:
    """Write one GGUF file as csm.rs lays it out: 2-D weights as `kind`, the rest F16 or F32.

    What `kind` cannot hold (rows that are no whole number of blocks, norms) is F16, unless `kind`
    is F32.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = sesame_tensors(source) if sesame else read_tensors(source)
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    rest = kind if kind is GGMLQuantizationType.F32 else GGMLQuantizationType.F16
    writer = gguf.GGUFWriter(path, arch="csm")
    for name, tensor in tensors.items():
        fits = tensor.ndim == 2 and "norm" not in name and tensor.shape[-1] % block == 0
        used = kind if fits else rest
        data = gguf.quants.quantize(np.ascontiguousarray(tensor.numpy()), used)
        writer.add_tensor(name, data, raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_codec(source: Path, folder: Path) -> Path:
    """Write the codec alone, under bare names, as `kyutai/mimi` has it."""
    folder.mkdir(parents=True, exist_ok=True)
    prefix = "codec_model."
    tensors = {
        name.removeprefix(prefix): tensor
        for name, tensor in read_tensors(source).items()
        if name.startswith(prefix)
    }
    save_file(tensors, folder / "model.safetensors")
    return folder


def sesame_tensors(source: Path) -> Tensors:
    """Rename to Sesame's naming and interleave the rows of queries and keys."""
    config = json.loads((source / "config.json").read_text())
    head_dims = {"backbone": config["head_dim"]}
    head_dims["decoder"] = config["depth_decoder_config"]["head_dim"]
    renamed = {}
    for name, tensor in read_tensors(source).items():
        new_name = _sesame_name(name)
        if (
            new_name.endswith(("attn.q_proj.weight", "attn.k_proj.weight"))
            and (half := new_name.split(".", 1)[0]) in head_dims
        ):
            tensor = _interleave(tensor, head_dims[half])
        renamed[new_name] = tensor
    return renamed


def _interleave(rows: torch.Tensor, head_dim: int) -> torch.Tensor:
    halves = rows.reshape(-1, 2, head_dim // 2, rows.shape[-1])
    return halves.transpose(1, 2).reshape(rows.shape).contiguous()


def _sesame_name(name: str) -> str:
    if name.startswith("codec_model."):
        return name
    for pattern, replacement in (
        (r"^embed_text_tokens", "text_embeddings"),
        (r"^backbone_model\.embed_tokens\.embed_audio_tokens", "audio_embeddings"),
        (r"^lm_head", "codebook0_head"),
        (r"^depth_decoder\.codebooks_head\.weight", "audio_head"),
        (r"^depth_decoder\.model\.inputs_embeds_projector", "projection"),
        (r"^backbone_model", "backbone"),
        (r"^depth_decoder\.model", "decoder"),
        (r"self_attn", "attn"),
        (r"o_proj", "output_proj"),
        (r"gate_proj", "w1"),
        (r"down_proj", "w2"),
        (r"up_proj", "w3"),
        (r"input_layernorm\.weight", "sa_norm.scale"),
        (r"post_attention_layernorm\.weight", "mlp_norm.scale"),
        (r"norm\.weight$", "norm.scale"),
    ):
        name = re.sub(pattern, replacement, name)
    return name


def _copy_small_files(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in SMALL_FILES:
        shutil.copy(source / name, folder / name)
