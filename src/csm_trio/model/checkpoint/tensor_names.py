"""Map the names of a CSM checkpoint's tensors to transformers' checkpoint naming.

In: a tensor's name as stored, in Sesame's or transformers' naming. Out: its canonical name, and
whether its rows are in Sesame's RoPE order. It must not know files or devices.
"""

import re
from dataclasses import dataclass

TEXT_EMBEDDINGS = "embed_text_tokens.weight"

AUDIO_EMBEDDINGS = "backbone_model.embed_tokens.embed_audio_tokens.weight"
"""Name of the backbone's audio embeddings, which the depth decoder shares where they are tied."""

DEPTH_AUDIO_EMBEDDINGS = "depth_decoder.model.embed_tokens.weight"
"""Name of the depth decoder's audio embeddings.

A checkpoint with tied embeddings has this name, `AUDIO_EMBEDDINGS`, or both.
"""

CODEC_PREFIX = "codec_model."

# Not needed to decode, or derived from the configuration.
_UNUSED = re.compile(
    r"codec_model\.(encoder|downsample|encoder_transformer)\."
    r"|codec_model\.quantizer\..*(\.input_proj\.weight|\.codebook\.initialized)$"
    r"|.*(inv_freq|audio_tokens_offsets|rope\.cache|rope\.theta|causal_mask)$"
)

# transformers, convert_csm.py: ORIGINAL_TO_CONVERTED_KEY_MAPPING.
_SESAME_TOP = {
    "text_embeddings.weight": TEXT_EMBEDDINGS,
    "audio_embeddings.weight": AUDIO_EMBEDDINGS,
    "codebook0_head.weight": "lm_head.weight",
    "audio_head": "depth_decoder.codebooks_head.weight",
    "projection.weight": "depth_decoder.model.inputs_embeds_projector.weight",
    "backbone.norm.scale": "backbone_model.norm.weight",
    "decoder.norm.scale": "depth_decoder.model.norm.weight",
}
_SESAME_LAYER = re.compile(r"(backbone|decoder)\.layers\.(\d+)\.(attn|mlp|sa_norm|mlp_norm)\.(.+)")
_SESAME_HALVES = {"backbone": "backbone_model", "decoder": "depth_decoder.model"}
_SESAME_PARTS = {
    "attn.q_proj.weight": "self_attn.q_proj.weight",
    "attn.k_proj.weight": "self_attn.k_proj.weight",
    "attn.v_proj.weight": "self_attn.v_proj.weight",
    "attn.output_proj.weight": "self_attn.o_proj.weight",
    "mlp.w1.weight": "mlp.gate_proj.weight",
    "mlp.w2.weight": "mlp.down_proj.weight",
    "mlp.w3.weight": "mlp.up_proj.weight",
    "sa_norm.scale": "input_layernorm.weight",
    "mlp_norm.scale": "post_attention_layernorm.weight",
}


@dataclass(frozen=True, slots=True)
class CanonicalName:
    """The canonical name of a stored tensor; `interleaved` rows are in Sesame's RoPE order."""

    name: str
    interleaved: bool


def canonical_name(name: str) -> CanonicalName | None:
    """Return the canonical name of a stored one; None for a tensor that decoding does not need.

    A name of neither naming is returned unchanged, for the caller to reject.
    """
    if _UNUSED.match(name):
        return None
    if name in _SESAME_TOP:
        return CanonicalName(_SESAME_TOP[name], interleaved=False)
    layer = _SESAME_LAYER.fullmatch(name)
    if layer is None:
        return CanonicalName(name, interleaved=False)
    half, index, part, rest = layer.groups()
    renamed = _SESAME_PARTS.get(f"{part}.{rest}")
    if renamed is None:
        return CanonicalName(name, interleaved=False)
    interleaved = rest in ("q_proj.weight", "k_proj.weight")
    return CanonicalName(f"{_SESAME_HALVES[half]}.layers.{index}.{renamed}", interleaved)
