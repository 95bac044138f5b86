"""A CSM small enough for a test: random weights, transformers' own checkpoint layout.

In: a folder to write to. Out: the files of `save_pretrained`, a byte-level tokenizer, and the
transformers model itself as the oracle. It must not know how csm_trio reads any of them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors
from transformers import CsmConfig, CsmForConditionalGeneration

SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|AUDIO|>",
    "<|audio_eos|>",
    "<|pad|>",
)
BOS_ID, EOS_ID, AUDIO_ID, AUDIO_EOS_ID, PAD_ID = range(256, 256 + len(SPECIAL_TOKENS))

CODEBOOKS = 4
CODEBOOK_SIZE = 32
AUDIO_VOCAB_SIZE = 35
TEXT_VOCAB_SIZE = 264


def write_tiny_checkpoint(
    folder: Path,
    *,
    seed: int = 0,
    llama3_rope: bool = True,
    max_positions: int = 256,
    sliding_window: int = 20,
    generation_config: Mapping[str, Any] | None = None,
    **config_overrides: Any,
) -> Path:
    """Write a random CSM (4 codebooks of 32, 2 + 2 layers, tiny Mimi) to `folder`; return `folder`.

    Its greedy codes vary from frame to frame. Head rows of ids no codec entry has
    (`CODEBOOK_SIZE` and above) are zero, so greedy decoding never names one. `config_overrides`
    replace top-level fields of `CsmConfig`. Without `generation_config`, sampling is greedy.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config(
        llama3_rope=llama3_rope,
        max_positions=max_positions,
        sliding_window=sliding_window,
        **config_overrides,
    )
    model: Any = CsmForConditionalGeneration(config)
    _fill_weights(model, seed=seed)
    model.save_pretrained(folder)
    write_generation_config(folder, generation_config)
    write_tokenizer(folder)
    return folder


def load_reference(folder: Path) -> Any:
    """Load `folder` as transformers' `CsmForConditionalGeneration`: eval mode, fp32, the oracle."""
    reference: Any = CsmForConditionalGeneration
    return reference.from_pretrained(folder, dtype=torch.float32).eval()


def tiny_config(
    *,
    llama3_rope: bool = True,
    max_positions: int = 256,
    sliding_window: int = 20,
    **overrides: Any,
) -> CsmConfig:
    """Build the configuration; with `llama3_rope` most RoPE frequencies are scaled by 8."""
    fields: dict[str, Any] = {
        "num_codebooks": CODEBOOKS,
        "vocab_size": AUDIO_VOCAB_SIZE,
        "text_vocab_size": TEXT_VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": max_positions,
        "rope_parameters": _rope(llama3_rope, original_max_positions=32),
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": PAD_ID,
        "audio_token_id": AUDIO_ID,
        "audio_eos_token_id": AUDIO_EOS_ID,
        "codebook_eos_token_id": 0,
        "codebook_pad_token_id": AUDIO_VOCAB_SIZE - 1,
        "depth_decoder_config": {
            "num_codebooks": CODEBOOKS,
            "vocab_size": AUDIO_VOCAB_SIZE,
            "backbone_hidden_size": overrides.get("hidden_size", 32),
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 12,
            "max_position_embeddings": CODEBOOKS + 1,
            "rope_parameters": _rope(llama3_rope, original_max_positions=4),
        },
        "codec_config": _codec_fields(sliding_window),
    }
    return CsmConfig(**(fields | overrides))


def _rope(llama3: bool, *, original_max_positions: int) -> dict[str, Any]:
    if not llama3:
        return {"rope_type": "default", "rope_theta": 10_000.0}
    return {
        "rope_type": "llama3",
        "rope_theta": 100.0,
        "factor": 8.0,
        "low_freq_factor": 0.5,
        "high_freq_factor": 2.0,
        "original_max_position_embeddings": original_max_positions,
    }


def _codec_fields(sliding_window: int) -> dict[str, Any]:
    return {
        "model_type": "mimi",
        "num_filters": 4,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 24,
        "upsample_groups": 16,
        "codebook_size": CODEBOOK_SIZE,
        "codebook_dim": 8,
        "vector_quantization_hidden_dimension": 8,
        "num_quantizers": CODEBOOKS,
        "num_semantic_quantizers": 1,
        "sliding_window": sliding_window,
        "layer_scale_initial_scale": 0.2,
    }


@torch.no_grad()
def _fill_weights(model: Any, *, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in sorted(_floating_tensors(model).items()):
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith(("cluster_usage", "initialized")):
            tensor.copy_(0.5 + noise.abs() if name.endswith("usage") else torch.ones_like(tensor))
        elif "norm" in name and name.endswith("weight"):
            tensor.copy_(1.0 + 0.1 * noise)
        elif name.endswith("scale"):
            tensor.copy_(0.3 + 0.1 * noise)
        elif "embed_sum" in name or "embed_" in name:
            tensor.copy_(0.5 * noise)
        elif tensor.ndim < 2:
            tensor.copy_(0.1 * noise)
        else:
            tensor.copy_(noise / tensor[0].numel() ** 0.5)
    model.lm_head.weight[CODEBOOK_SIZE:] = 0.0
    model.depth_decoder.codebooks_head.weight.mul_(4.0)[..., CODEBOOK_SIZE:] = 0.0
    model.tie_weights()


def _floating_tensors(model: Any) -> dict[str, torch.Tensor]:
    """List what a checkpoint carries, under the module's own names (RoPE tables are derived)."""
    return {
        name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()
    }


def write_generation_config(folder: Path, fields: Mapping[str, Any] | None = None) -> None:
    """Write `generation_config.json`; greedy in both halves without `fields`."""
    content = (
        fields if fields is not None else {"do_sample": False, "depth_decoder_do_sample": False}
    )
    needed = {"max_new_tokens": 32, "bos_token_id": BOS_ID, "pad_token_id": PAD_ID}
    (folder / "generation_config.json").write_text(json.dumps(needed | dict(content), indent=2))


def write_tokenizer(folder: Path) -> None:
    """Write a byte-level `tokenizer.json` whose post-processor adds BOS and EOS, like CSM-1B's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken(token) for token in SPECIAL_TOKENS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A <|end_of_text|>",
        special_tokens=[("<|begin_of_text|>", BOS_ID), ("<|end_of_text|>", EOS_ID)],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
        "pad_token": "<|pad|>",
        "audio_token": "<|AUDIO|>",
        "audio_eos_token": "<|audio_eos|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
