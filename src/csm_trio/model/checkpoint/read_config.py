"""Parse a checkpoint's `config.json` and `generation_config.json` into one `CSMConfig`.

In: the JSON in transformers' or Sesame's own naming, or neither file. Out: frozen sizes and default
sampling parameters. It must not know where the files came from, nor any tensor.
"""

import logging
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from csm_trio.errors import StartupError
from csm_trio.model.config import (
    CSMConfig,
    Llama3Scaling,
    LlamaConfig,
    MimiConfig,
    SamplingDefaults,
    SamplingParams,
)
from csm_trio.named_files import read_json
from csm_trio.timebase import FRAME_RATE_HZ, FRAME_SAMPLES, SAMPLE_RATE_HZ

_MAX_CONFIG_BYTES = 16 << 20
_MAX_DETAIL_CHARS = 300
_MAX_SIZE, _MAX_COUNT = 1 << 24, 1024
"""Bounds of sizes, and of what each has tensors of its own (`_COUNTS`): far above any CSM's."""
_COUNTS = ("layers", "residual_layers", "codebooks", "quantizers", "semantic_quantizers")
_MAY_BE_ZERO = ("norm_eps", "codebook_eos_id")

GREEDY = SamplingParams(temperature=0.0, top_k=1)

CSM_1B_SAMPLING = SamplingParams(temperature=0.9, top_k=50)
"""Sampling parameters of Sesame's reference for both halves (SesameAILabs/csm, generator.py)."""


def read_config(config_path: Path | None, generation_config_path: Path | None) -> CSMConfig:
    """Read both files; without `config_path` the sizes are CSM-1B's.

    Raises `StartupError` if a file is no JSON object, or its model is not CSM.
    """
    generation_config = _read_object(generation_config_path) if generation_config_path else None
    if config_path is None:
        vocab_size = csm_1b_config().audio_vocab_size
        sampling = _sampling_defaults(generation_config, vocab_size=vocab_size)
        return replace(csm_1b_config(), sampling=sampling)
    try:
        return parse_config(_read_object(config_path), generation_config)
    except StartupError as error:
        raise StartupError(f"{config_path}: {error}") from error


def parse_config(
    config: Mapping[str, Any], generation_config: Mapping[str, Any] | None
) -> CSMConfig:
    """Resolve a checkpoint's configuration: defaults, legacy keys, RoPE scaling.

    Defaults and legacy keys (`rope_scaling` beside `rope_theta`) are resolved by transformers'
    own `CsmConfig`; a configuration of Sesame's original repository names flavors instead of
    sizes. Raises `StartupError` for a configuration that this engine does not support.
    """
    if "backbone_flavor" in config:
        return _parse_sesame_config(config, generation_config)
    model_type = config.get("model_type")
    if model_type != "csm":
        raise StartupError(f"the model_type is {model_type!r}, and only 'csm' can be served.")
    try:
        return _convert(_resolve(config), generation_config)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        detail = f"{type(error).__name__}: {error}"
        raise StartupError(f"a size or a RoPE parameter is missing or wrong ({detail}).") from error


def codec_config(config_path: Path | None) -> Any:
    """Return transformers' configuration of a checkpoint's codec, by default kyutai/mimi's."""
    from transformers import MimiConfig as TransformersMimiConfig

    content = {} if config_path is None else _read_object(config_path)
    if "codec_config" not in content:
        return TransformersMimiConfig()
    return _resolve(content).codec_config


def csm_1b_config() -> CSMConfig:
    """Return the sizes of `sesame/csm-1b`, for weights without a configuration.

    From SesameAILabs/csm, models.py (llama-1B, llama-100M), with the RoPE scaling of Llama 3.2 in
    its original form; the codec is `kyutai/mimi`.
    """
    scaling = Llama3Scaling(
        factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=8192
    )
    backbone = LlamaConfig(
        hidden_size=2048,
        intermediate_size=8192,
        layers=16,
        heads=32,
        kv_heads=8,
        head_dim=64,
        norm_eps=1e-5,
        max_positions=2048,
        rope_theta=500_000.0,
        rope_scaling=scaling,
    )
    depth = replace(
        backbone, hidden_size=1024, layers=4, heads=8, kv_heads=2, head_dim=128, max_positions=33
    )
    return CSMConfig(
        backbone=backbone,
        depth=depth,
        codec=_kyutai_mimi_config(),
        codebooks=32,
        audio_vocab_size=2051,
        text_vocab_size=128_256,
        codebook_eos_id=0,
        sampling=SamplingDefaults(backbone=CSM_1B_SAMPLING, depth=CSM_1B_SAMPLING),
    )


def _kyutai_mimi_config() -> MimiConfig:
    return MimiConfig(
        hidden_size=512,
        filters=64,
        upsampling_ratios=(8, 6, 5, 4),
        kernel_size=7,
        last_kernel_size=3,
        residual_kernel_size=3,
        residual_layers=1,
        dilation_growth=2,
        compress=2,
        layers=8,
        heads=8,
        kv_heads=8,
        head_dim=64,
        intermediate_size=2048,
        norm_eps=1e-5,
        rope_theta=10_000.0,
        sliding_window=250,
        codebook_size=2048,
        codebook_dim=256,
        vq_hidden_size=256,
        quantizers=32,
        semantic_quantizers=1,
        upsample_groups=512,
        upsample_stride=2,
    )


def _read_object(path: Path) -> dict[str, Any]:
    content = read_json(path, max_bytes=_MAX_CONFIG_BYTES)
    if not isinstance(content, dict):
        raise StartupError(f"{path} holds no JSON object.")
    return content


def _resolve(config: Mapping[str, Any]) -> Any:
    # Imported here: only a server that loads a model pays for importing transformers.
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CsmConfig

    try:
        with _quiet_transformers():
            return CsmConfig.from_dict(deepcopy(dict(config)))
    except (
        ArithmeticError, AttributeError, LookupError, StrictDataclassError, TypeError, ValueError
    ) as error:  # fmt: skip
        detail = " ".join(str(error).split())
        detail = detail if len(detail) <= _MAX_DETAIL_CHARS else f"{detail[:_MAX_DETAIL_CHARS]} …"
        raise StartupError(f"transformers refuses it as a CSM configuration: {detail}") from error


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep what transformers logs about a configuration out of the log.

    It warns of the text's token ids in every CSM-1B (above the audio vocabulary), which are not
    read here; what this engine reads is checked below, and an exception has its own sentence.
    """
    library = logging.getLogger("transformers")
    level = library.level
    library.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        library.setLevel(level)


def _convert(resolved: Any, generation_config: Mapping[str, Any] | None) -> CSMConfig:
    _reject_unsupported(resolved)
    converted = CSMConfig(
        backbone=_llama_config(resolved, part="backbone"),
        depth=_llama_config(resolved.depth_decoder_config, part="depth decoder"),
        codec=_mimi_config(resolved.codec_config),
        codebooks=resolved.num_codebooks,
        audio_vocab_size=resolved.vocab_size,
        text_vocab_size=resolved.text_vocab_size,
        codebook_eos_id=_single_id(resolved.codebook_eos_token_id),
        sampling=_sampling_defaults(generation_config, vocab_size=resolved.vocab_size),
    )
    for part in (converted, converted.backbone, converted.depth, converted.codec):
        _check_numbers(part)
    if converted.codebook_eos_id >= converted.codec.codebook_size:
        raise StartupError("codebook_eos_token_id is no code of the codec.")
    return converted


def _check_numbers(part: CSMConfig | LlamaConfig | MimiConfig | Llama3Scaling) -> None:
    """Raise `StartupError` for a size or a RoPE parameter that no model can have."""
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, Llama3Scaling):
            _check_numbers(value)
            if value.low_freq_factor == value.high_freq_factor:
                raise StartupError("low_freq_factor and high_freq_factor are equal.")
            continue
        if value is None or is_dataclass(value):
            continue
        for number in value if isinstance(value, tuple) else (value,):
            least = 0 if field.name in _MAY_BE_ZERO else sys.float_info.min
            if field.type is float:
                holds = least <= number < math.inf
            else:
                most = _MAX_COUNT if field.name in _COUNTS else _MAX_SIZE
                holds = type(number) is int and least <= number <= most
            if not holds:
                raise StartupError(f"{field.name} is {number!r}, which no CSM can have.")


def _reject_unsupported(config: Any) -> None:
    depth, codec = config.depth_decoder_config, config.codec_config
    if codec.model_type != "mimi":
        raise StartupError(f"the codec is {codec.model_type!r}, and only 'mimi' can be served.")
    divides = FRAME_SAMPLES % math.prod(codec.upsampling_ratios) == 0
    agreements = (
        (config.vocab_size >= codec.codebook_size, "codebook_size is above vocab_size"),
        (config.num_codebooks <= codec.num_quantizers, "num_codebooks is above num_quantizers"),
        (config.num_codebooks == depth.num_codebooks, "the halves disagree on num_codebooks"),
        (config.vocab_size == depth.vocab_size, "the halves disagree on vocab_size"),
        (config.hidden_size == depth.backbone_hidden_size, "backbone_hidden_size is wrong"),
        (depth.max_position_embeddings >= config.num_codebooks, "the depth decoder is too short"),
        (codec.sampling_rate == SAMPLE_RATE_HZ, f"the codec is not at {SAMPLE_RATE_HZ} Hz"),
        (divides, f"upsampling_ratios do not divide a frame of {FRAME_SAMPLES} samples"),
        (codec.frame_rate == FRAME_RATE_HZ, f"the codec is not at {FRAME_RATE_HZ} frames a second"),
        (codec.audio_channels == 1, "the codec is not mono"),
        (codec.use_causal_conv, "the codec is not causal"),
        (codec.trim_right_ratio == 1.0, "the codec's trim_right_ratio is not 1"),
        (codec.pad_mode == "constant", "the codec's pad_mode is not 'constant'"),
        (not codec.use_conv_shortcut, "the codec has convolution shortcuts"),
        (codec.num_residual_layers >= 1, "the codec has no residual layers"),
        (codec.hidden_act == "gelu", "the codec's activation is not 'gelu'"),
    )
    for holds, problem in agreements:
        if not holds:
            raise StartupError(f"{problem}, which this engine does not compute.")


def _llama_config(config: Any, *, part: str) -> LlamaConfig:
    rope = config.rope_parameters
    if config.hidden_act != "silu" or config.attention_bias or config.mlp_bias:
        raise StartupError(f"the {part} is no plain Llama (silu, no biases).")
    if config.num_attention_heads % config.num_key_value_heads or config.head_dim % 2:
        raise StartupError(f"the {part}'s heads do not divide.")
    return LlamaConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        norm_eps=config.rms_norm_eps,
        max_positions=config.max_position_embeddings,
        rope_theta=float(rope["rope_theta"]),
        rope_scaling=_rope_scaling(rope, part=part),
    )


def _rope_scaling(rope: Mapping[str, Any], *, part: str) -> Llama3Scaling | None:
    rope_type = rope.get("rope_type", "default")
    if rope_type == "default":
        return None
    if rope_type != "llama3":
        raise StartupError(f"the {part}'s rope_type is {rope_type!r}, not 'default' or 'llama3'.")
    return Llama3Scaling(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_max_positions=int(rope["original_max_position_embeddings"]),
    )


def _mimi_config(codec: Any) -> MimiConfig:
    if _rope_scaling(codec.rope_parameters, part="codec") is not None:
        raise StartupError("the codec's RoPE is scaled, which this engine does not compute.")
    return MimiConfig(
        hidden_size=codec.hidden_size,
        filters=codec.num_filters,
        upsampling_ratios=tuple(codec.upsampling_ratios),
        kernel_size=codec.kernel_size,
        last_kernel_size=codec.last_kernel_size,
        residual_kernel_size=codec.residual_kernel_size,
        residual_layers=codec.num_residual_layers,
        dilation_growth=codec.dilation_growth_rate,
        compress=codec.compress,
        layers=codec.num_hidden_layers,
        heads=codec.num_attention_heads,
        kv_heads=codec.num_key_value_heads,
        head_dim=codec.head_dim,
        intermediate_size=codec.intermediate_size,
        norm_eps=codec.norm_eps,
        rope_theta=float(codec.rope_parameters["rope_theta"]),
        sliding_window=codec.sliding_window,
        codebook_size=codec.codebook_size,
        codebook_dim=codec.codebook_dim,
        vq_hidden_size=codec.vector_quantization_hidden_dimension,
        quantizers=codec.num_quantizers,
        semantic_quantizers=codec.num_semantic_quantizers,
        upsample_groups=codec.upsample_groups,
        upsample_stride=FRAME_SAMPLES // math.prod(codec.upsampling_ratios),
    )


def _parse_sesame_config(
    config: Mapping[str, Any], generation_config: Mapping[str, Any] | None
) -> CSMConfig:
    flavors = (config.get("backbone_flavor"), config.get("decoder_flavor"))
    if flavors != ("llama-1B", "llama-100M"):
        raise StartupError(f"the flavors {flavors} are not ('llama-1B', 'llama-100M').")
    base = csm_1b_config()
    sizes = {
        "codebooks": config.get("audio_num_codebooks", base.codebooks),
        "audio_vocab_size": config.get("audio_vocab_size", base.audio_vocab_size),
        "text_vocab_size": config.get("text_vocab_size", base.text_vocab_size),
    }
    if not all(isinstance(size, int) and size > 0 for size in sizes.values()):
        raise StartupError("a vocabulary size or the number of codebooks is no positive integer.")
    sampling = _sampling_defaults(generation_config, vocab_size=sizes["audio_vocab_size"])
    return replace(base, sampling=sampling, **sizes)


def _sampling_defaults(
    generation_config: Mapping[str, Any] | None, *, vocab_size: int
) -> SamplingDefaults:
    """Return the sampling parameters as transformers reads them; CSM-1B's if the file has none.

    In transformers (generation_csm.py) the depth decoder reads `depth_decoder_*` only, and a
    missing field takes the library's default: no sampling, temperature 1, top_k 50.
    """
    fields = generation_config or {}
    if not any(
        f"{prefix}{key}" in fields
        for prefix in ("", "depth_decoder_")
        for key in ("do_sample", "temperature", "top_k")
    ):
        return SamplingDefaults(backbone=CSM_1B_SAMPLING, depth=CSM_1B_SAMPLING)
    return SamplingDefaults(
        backbone=_sampling_params(fields, prefix="", vocab_size=vocab_size),
        depth=_sampling_params(fields, prefix="depth_decoder_", vocab_size=vocab_size),
    )


def _sampling_params(fields: Mapping[str, Any], *, prefix: str, vocab_size: int) -> SamplingParams:
    if not fields.get(f"{prefix}do_sample"):
        return GREEDY
    temperature = fields.get(f"{prefix}temperature")
    top_k = fields.get(f"{prefix}top_k")
    try:
        params = SamplingParams(
            temperature=1.0 if temperature is None else float(temperature),
            top_k=50 if top_k is None else int(top_k),
        )
    except (OverflowError, TypeError, ValueError) as error:
        raise StartupError(
            f"generation_config.json: {prefix}temperature or top_k: {error}."
        ) from error
    if not 0.0 <= params.temperature < float("inf") or params.top_k < 0:
        raise StartupError(f"generation_config.json: {prefix}temperature or top_k is out of range.")
    if params.temperature == 0.0:
        return GREEDY
    # In transformers a top_k of 0 is no limit.
    return replace(params, top_k=min(params.top_k or vocab_size, vocab_size))


def _single_id(value: int | list[int] | None) -> int:
    if isinstance(value, list):
        if len(value) != 1:
            raise StartupError("codebook_eos_token_id must be one id.")
        return value[0]
    return 0 if value is None else value
