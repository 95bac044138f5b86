"""A checkpoint's JSON becomes sizes: defaults, legacy keys, RoPE scaling, sampling."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import CsmConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from csm_trio.errors import StartupError
from csm_trio.model.checkpoint.read_config import GREEDY, csm_1b_config, parse_config, read_config
from csm_trio.model.config import Llama3Scaling, LlamaConfig, SamplingParams
from support.tiny_csm import AUDIO_VOCAB_SIZE, CODEBOOKS, tiny_config, write_tiny_checkpoint

CSM_1B_ROPE = {
    "backbone": {
        "rope_type": "llama3",
        "factor": 32.0,
        "high_freq_factor": 0.5,
        "low_freq_factor": 0.125,
        "original_max_position_embeddings": 1024,
    },
    "depth": {
        "rope_type": "llama3",
        "factor": 32.0,
        "high_freq_factor": 0.0078125,
        "low_freq_factor": 0.001953125,
        "original_max_position_embeddings": 16,
    },
}
"""As transformers' conversion script writes them into the configuration of `sesame/csm-1b`."""


def _csm_1b_json(*, legacy: bool) -> dict[str, Any]:
    if legacy:
        scaled = {
            half: {"rope_theta": 500_000, "rope_scaling": rope}
            for half, rope in CSM_1B_ROPE.items()
        }
    else:
        scaled = {
            half: {"rope_parameters": {**rope, "rope_theta": 500_000.0}}
            for half, rope in CSM_1B_ROPE.items()
        }
    return {"model_type": "csm", **scaled["backbone"], "depth_decoder_config": scaled["depth"]}


def _tiny_json(**changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(tiny_config().to_json_string(use_diff=False))
    for key, value in changes.items():
        part, _, field = key.rpartition("__")
        (config[part] if part else config)[field] = value
    return config


def _inverse_frequencies(config: LlamaConfig) -> list[float]:
    """Let transformers compute a half's RoPE table from our sizes."""
    assert config.rope_scaling is not None
    scaling = config.rope_scaling
    theirs = CsmConfig(
        head_dim=config.head_dim,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": config.rope_theta,
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_positions,
        },
    )
    table, _ = ROPE_INIT_FUNCTIONS["llama3"](theirs, None)
    return [float(value) for value in table]


@pytest.mark.parametrize("legacy", [False, True], ids=["rope_parameters", "rope_scaling"])
def test_csm_1b_s_configuration_is_the_built_in_one(legacy: bool) -> None:
    parsed = parse_config(_csm_1b_json(legacy=legacy), None)
    built_in = csm_1b_config()
    scaling = Llama3Scaling(32.0, 0.125, 0.5, 1024)
    assert parsed.backbone == replace(built_in.backbone, rope_scaling=scaling)
    assert parsed.depth.rope_scaling == Llama3Scaling(32.0, 0.001953125, 0.0078125, 16)
    assert replace(parsed, backbone=built_in.backbone, depth=built_in.depth) == built_in
    for half in ("backbone", "depth"):
        ours = _inverse_frequencies(getattr(parsed, half))
        assert ours == _inverse_frequencies(getattr(built_in, half))


def test_the_scaling_of_rope_is_never_dropped() -> None:
    """CSM-1B unscaled is 2 radians off at position 2047; transformers' defaults are unscaled."""
    parsed = parse_config(_csm_1b_json(legacy=False), None)
    for llama in (parsed.backbone, parsed.depth, csm_1b_config().backbone, csm_1b_config().depth):
        scaled = _inverse_frequencies(llama)
        pairs = range(0, llama.head_dim, 2)
        plain = [llama.rope_theta ** (-index / llama.head_dim) for index in pairs]
        changed = sum(ours < 0.99 * theirs for ours, theirs in zip(scaled, plain, strict=True))
        assert changed > llama.head_dim // 4


def test_a_bare_configuration_means_what_transformers_means() -> None:
    parsed = parse_config({"model_type": "csm"}, None)
    assert parsed.backbone == replace(csm_1b_config().backbone, rope_scaling=None)
    assert parsed.codec == csm_1b_config().codec


def test_no_configuration_at_all_is_csm_1b() -> None:
    assert read_config(None, None) == csm_1b_config()


def test_a_saved_checkpoint_is_read_back(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path)
    config = read_config(folder / "config.json", folder / "generation_config.json")
    assert (config.codebooks, config.audio_vocab_size) == (CODEBOOKS, AUDIO_VOCAB_SIZE)
    assert (config.backbone.head_dim, config.depth.head_dim) == (8, 12)
    assert config.backbone.rope_scaling == Llama3Scaling(8.0, 0.5, 2.0, 32)
    assert config.depth.rope_scaling == Llama3Scaling(8.0, 0.5, 2.0, 4)
    assert (config.codec.codebook_size, config.codec.sliding_window) == (32, 20)
    assert config.codec.upsample_stride == 2
    assert config.sampling.backbone == config.sampling.depth == GREEDY


def test_sesame_s_own_configuration_names_flavors() -> None:
    config = {
        "audio_num_codebooks": 32,
        "audio_vocab_size": 2051,
        "backbone_flavor": "llama-1B",
        "decoder_flavor": "llama-100M",
        "text_vocab_size": 128_300,
    }
    assert parse_config(config, None) == replace(csm_1b_config(), text_vocab_size=128_300)


CSM_1B_SAMPLING = SamplingParams(0.9, 50)
SAMPLING: list[tuple[Mapping[str, Any] | None, SamplingParams, SamplingParams]] = [
    (None, CSM_1B_SAMPLING, CSM_1B_SAMPLING),
    ({"max_new_tokens": 125, "_from_model_config": True}, CSM_1B_SAMPLING, CSM_1B_SAMPLING),
    ({"do_sample": False, "depth_decoder_do_sample": False}, GREEDY, GREEDY),
    ({"temperature": 0.9, "top_k": 50}, GREEDY, GREEDY),
    ({"do_sample": True}, SamplingParams(1.0, 35), GREEDY),
    ({"do_sample": True, "top_k": 20}, SamplingParams(1.0, 20), GREEDY),
    ({"do_sample": True, "top_k": 0}, SamplingParams(1.0, 35), GREEDY),
    ({"do_sample": True, "temperature": 0.0}, GREEDY, GREEDY),
    (
        {
            "do_sample": True,
            "temperature": 0.3,
            "top_k": 7,
            "depth_decoder_do_sample": True,
            "depth_decoder_temperature": 0.8,
            "depth_decoder_top_k": 9,
        },
        SamplingParams(0.3, 7),
        SamplingParams(0.8, 9),
    ),
]


@pytest.mark.parametrize(("generation_config", "backbone", "depth"), SAMPLING)
def test_sampling_follows_the_generation_config_as_transformers_reads_it(
    generation_config: Mapping[str, Any] | None, backbone: SamplingParams, depth: SamplingParams
) -> None:
    sampling = parse_config(_tiny_json(), generation_config).sampling
    assert (sampling.backbone, sampling.depth) == (backbone, depth)


PROBLEMS: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "llama"}, "the model_type is 'llama', and only 'csm' can be served"),
    ({"hidden_size": "wide"}, "refuses it as a CSM configuration"),
    ({"hidden_act": "gelu"}, "the backbone is no plain Llama"),
    ({"mlp_bias": True}, "the backbone is no plain Llama"),
    ({"depth_decoder_config__attention_bias": True}, "the depth decoder is no plain Llama"),
    ({"num_key_value_heads": 3}, "the backbone's heads do not divide"),
    ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 9.0}}, "'linear'"),
    ({"num_key_value_heads": 0}, "a size or a RoPE parameter is missing or wrong"),
    ({"num_codebooks": None}, "refuses it as a CSM configuration"),
    ({"codec_config__upsampling_ratios": [0]}, "a size or a RoPE parameter is missing or wrong"),
    ({"rope_parameters": {"rope_type": "llama3"}}, "refuses it as a CSM configuration"),
    ({"vocab_size": 31}, "codebook_size is above vocab_size"),
    ({"num_codebooks": 5}, "num_codebooks is above num_quantizers"),
    ({"depth_decoder_config__num_codebooks": 3}, "the halves disagree on num_codebooks"),
    ({"depth_decoder_config__vocab_size": 40}, "the halves disagree on vocab_size"),
    ({"depth_decoder_config__backbone_hidden_size": 16}, "backbone_hidden_size is wrong"),
    ({"depth_decoder_config__max_position_embeddings": 3}, "the depth decoder is too short"),
    ({"codec_config__sampling_rate": 16_000}, "the codec is not at 24000 Hz"),
    ({"codec_config__upsampling_ratios": [8, 6, 5, 7]}, "upsampling_ratios do not divide"),
    ({"codec_config__pad_mode": "replicate"}, "pad_mode is not 'constant'"),
    ({"codec_config__use_conv_shortcut": True}, "convolution shortcuts"),
    ({"codebook_eos_token_id": [0, 1]}, "codebook_eos_token_id must be one id"),
    ({"codebook_eos_token_id": 4096}, "codebook_eos_token_id is no code of the codec"),
    ({"codebook_eos_token_id": -1}, "codebook_eos_id is -1, which no CSM can have"),
    ({"intermediate_size": -8}, "intermediate_size is -8, which no CSM can have"),
    ({"text_vocab_size": -1}, "text_vocab_size is -1, which no CSM can have"),
    ({"num_hidden_layers": 1_000_000}, "layers is 1000000, which no CSM can have"),
    ({"intermediate_size": 10**30}, "which no CSM can have"),
    ({"depth_decoder_config__intermediate_size": 0}, "intermediate_size is 0, which no CSM"),
    ({"codec_config__compress": 0}, "compress is 0, which no CSM can have"),
    ({"codec_config__kernel_size": -7}, "kernel_size is -7, which no CSM can have"),
    ({"codec_config__num_quantizers": 10**6}, "quantizers is 1000000, which no CSM can have"),
    *(({"dtype": value}, "refuses it as a CSM configuration") for value in ([], [1], math.inf)),
]


def llama3(**changes: Any) -> dict[str, Any]:
    scaling = {
        "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 4.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
    }  # fmt: skip
    return {"rope_parameters": {**scaling, **changes}}


NO_NUMBERS: tuple[Any, ...] = ("x", math.nan, math.inf, 0, -1.0, None, [])
PROBLEMS += [
    (llama3(**{name: value}), "")
    for name in ("rope_theta", "factor", "low_freq_factor", "high_freq_factor")
    for value in NO_NUMBERS
]
PROBLEMS += [
    (llama3(original_max_position_embeddings=value), "") for value in ("x", math.nan, math.inf, 0)
]


@pytest.mark.parametrize(("changes", "sentence"), PROBLEMS)
def test_a_configuration_that_cannot_be_served_is_one_sentence(
    changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(_tiny_json(**changes)))
    with pytest.raises(StartupError) as caught:
        read_config(path, None)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "holds no JSON object"),
        (None, "cannot be read: No such"),
    ],
)
def test_a_file_that_is_no_configuration_is_one_sentence(
    content: str | None, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StartupError, match=sentence):
        read_config(path, None)


@pytest.mark.parametrize("value", ["many", math.inf, math.nan, -1, [3]])
def test_a_top_k_that_is_none_is_one_sentence(value: Any) -> None:
    for prefix in ("", "depth_decoder_"):
        generation_config = {f"{prefix}do_sample": True, f"{prefix}top_k": value}
        with pytest.raises(StartupError, match=rf"generation_config\.json: {prefix}temperature"):
            parse_config(_tiny_json(), generation_config)


@pytest.mark.parametrize("value", ["warm", -1.0, float("nan"), float("inf"), [0.3]])
def test_a_temperature_that_is_none_is_one_sentence(value: Any) -> None:
    generation_config = {"do_sample": True, "temperature": value}
    with pytest.raises(StartupError, match=r"generation_config\.json: temperature"):
        parse_config(_tiny_json(), generation_config)


@pytest.mark.parametrize("flavor", ["llama-3B", None])
def test_another_flavor_of_sesame_s_is_refused(flavor: str | None) -> None:
    config = {"backbone_flavor": flavor, "decoder_flavor": "llama-100M"}
    with pytest.raises(StartupError, match="the flavors"):
        parse_config(config, None)


def test_the_configuration_of_csm_1b_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Its text's token ids are above its audio vocabulary, of which transformers warns."""
    published = _csm_1b_json(legacy=True) | {
        "architectures": ["CsmForConditionalGeneration"],
        "audio_eos_token_id": 128_003,
        "audio_token_id": 128_002,
        "bos_token_id": 128_000,
        "eos_token_id": 128_001,
        "pad_token_id": 128_002,
        "tie_codebooks_embeddings": True,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    library = logging.getLogger("transformers")
    warn_once: Any = logging.Logger.warning_once  # type: ignore[attr-defined]
    library.addHandler(caplog.handler)
    try:
        warn_once.cache_clear()  # else a test before this one may have used them up
        parse_config(published, None)
        assert caplog.records == []
        warn_once.cache_clear()
        CsmConfig.from_dict(published)
        # The library's records reach the root logger too where `CI` is set: each text once.
        assert len({record.getMessage() for record in caplog.records}) == 5
    finally:
        library.removeHandler(caplog.handler)
