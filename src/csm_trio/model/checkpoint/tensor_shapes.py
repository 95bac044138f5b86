"""Names and shapes of the tensors of a CSM of given sizes.

In: a `CSMConfig`. Out: shapes by canonical name, in transformers' checkpoint naming. It must not
know how tensors are stored, nor hold any.
"""

from csm_trio.model.checkpoint.tensor_names import AUDIO_EMBEDDINGS, CODEC_PREFIX, TEXT_EMBEDDINGS
from csm_trio.model.config import CSMConfig, LlamaConfig, MimiConfig

Shapes = dict[str, tuple[int, ...]]


def expected_shapes(config: CSMConfig) -> Shapes:
    """Return the shape of every tensor of backbone, depth decoder and codec, by name."""
    hidden, depth_hidden = config.backbone.hidden_size, config.depth.hidden_size
    shapes: Shapes = {
        TEXT_EMBEDDINGS: (config.text_vocab_size, hidden),
        AUDIO_EMBEDDINGS: (config.codebooks * config.audio_vocab_size, hidden),
        "lm_head.weight": (config.audio_vocab_size, hidden),
        "depth_decoder.model.inputs_embeds_projector.weight": (depth_hidden, hidden),
        "depth_decoder.codebooks_head.weight": (
            config.codebooks - 1,
            depth_hidden,
            config.audio_vocab_size,
        ),
    }
    shapes |= _prefixed("backbone_model.", _llama_shapes(config.backbone))
    shapes |= _prefixed("depth_decoder.model.", _llama_shapes(config.depth))
    return shapes | _prefixed(CODEC_PREFIX, codec_shapes(config.codec))


def codec_shapes(config: MimiConfig) -> Shapes:
    """Return the shapes of a Mimi's decoding half, by name without a prefix."""
    shapes = _prefixed("decoder.layers.", _codec_convolutions(config))
    for index in range(config.layers):
        shapes |= _prefixed(f"decoder_transformer.layers.{index}.", _codec_layer(config))
    if config.upsample_stride > 1:
        shapes["upsample.conv.weight"] = (
            config.hidden_size,
            config.hidden_size // config.upsample_groups,
            2 * config.upsample_stride,
        )
    acoustic = config.quantizers - config.semantic_quantizers
    for kind, layers in (("semantic", config.semantic_quantizers), ("acoustic", acoustic)):
        quantizer = f"quantizer.{kind}_residual_vector_quantizer."
        shapes |= _prefixed(quantizer, _quantizer_shapes(config, layers))
    return shapes


def _llama_shapes(config: LlamaConfig) -> Shapes:
    hidden, wide = config.hidden_size, config.intermediate_size
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    layer: Shapes = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (wide, hidden),
        "mlp.up_proj.weight": (wide, hidden),
        "mlp.down_proj.weight": (hidden, wide),
    }
    shapes: Shapes = {"norm.weight": (hidden,)}
    for index in range(config.layers):
        shapes |= _prefixed(f"layers.{index}.", layer)
    return shapes


def _codec_convolutions(config: MimiConfig) -> Shapes:
    """Return the shapes of Mimi's SEANet decoder; as in transformers, activations take an index."""
    channels = config.filters * 2 ** len(config.upsampling_ratios)
    shapes = _convolution("0.conv", channels, config.hidden_size, config.kernel_size)
    index = 1
    for ratio in config.upsampling_ratios:
        index += 1  # the activation
        half = channels // 2
        shapes[f"{index}.conv.weight"] = (channels, half, 2 * ratio)
        shapes[f"{index}.conv.bias"] = (half,)
        channels = half
        index += 1
        for _ in range(config.residual_layers):
            narrow = channels // config.compress
            first = f"{index}.block.1.conv"
            shapes |= _convolution(first, narrow, channels, config.residual_kernel_size)
            shapes |= _convolution(f"{index}.block.3.conv", channels, narrow, 1)
            index += 1
    return shapes | _convolution(f"{index + 1}.conv", 1, channels, config.last_kernel_size)


def _convolution(name: str, channels_out: int, channels_in: int, kernel: int) -> Shapes:
    return {f"{name}.weight": (channels_out, channels_in, kernel), f"{name}.bias": (channels_out,)}


def _codec_layer(config: MimiConfig) -> Shapes:
    hidden, wide = config.hidden_size, config.intermediate_size
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    return {
        "input_layernorm.weight": (hidden,),
        "input_layernorm.bias": (hidden,),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "self_attn_layer_scale.scale": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "post_attention_layernorm.bias": (hidden,),
        "mlp.fc1.weight": (wide, hidden),
        "mlp.fc2.weight": (hidden, wide),
        "mlp_layer_scale.scale": (hidden,),
    }


def _quantizer_shapes(config: MimiConfig, layers: int) -> Shapes:
    shapes: Shapes = {"output_proj.weight": (config.hidden_size, config.vq_hidden_size, 1)}
    for index in range(layers):
        codebook = f"layers.{index}.codebook"
        shapes[f"{codebook}.embed_sum"] = (config.codebook_size, config.codebook_dim)
        shapes[f"{codebook}.cluster_usage"] = (config.codebook_size,)
    return shapes


def _prefixed(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}
