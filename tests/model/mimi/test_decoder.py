"""The streaming codec against transformers' own decode of whole sequences."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import MimiConfig as OracleConfig
from transformers import MimiModel

import csm_trio
from csm_trio.model.config import MimiConfig
from csm_trio.model.mimi.cpu_kernels import cpu_kernels
from csm_trio.model.mimi.decoder import MimiDecoder, MimiState

CPU = torch.device("cpu")
PREFIX = "codec_model."
NANO_VOICE = Path(csm_trio.__file__).parent / "nano_voice"

MIMI_SHAPED: dict[str, Any] = {
    "hidden_size": 32,
    "num_filters": 4,
    "upsampling_ratios": [4, 3],
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 48,
    "sliding_window": 12,
    "codebook_size": 16,
    "codebook_dim": 8,
    "vector_quantization_hidden_dimension": 8,
    "num_quantizers": 4,
    "upsample_groups": 32,
}
UNLIKE_MIMI: dict[str, Any] = MIMI_SHAPED | {
    "upsampling_ratios": [3, 2, 2],
    "num_residual_layers": 3,
    "kernel_size": 5,
    "last_kernel_size": 5,
    "residual_kernel_size": 2,
    "dilation_growth_rate": 3,
    "compress": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "sliding_window": 7,
    "codebook_dim": 32,  # as wide as the model: the checkpoint has no output projections
    "vector_quantization_hidden_dimension": 32,
    "num_semantic_quantizers": 2,
    "upsample_groups": 8,
    "rope_parameters": {"rope_type": "default", "rope_theta": 50.0},
}
SHAPES = {"mimi-shaped": MIMI_SHAPED, "unlike-mimi": UNLIKE_MIMI}


@dataclass(frozen=True, slots=True)
class Codec:
    """A decoder, its checkpoint and the oracle that was loaded from the same one."""

    config: MimiConfig
    tensors: Mapping[str, Tensor]
    decoder: MimiDecoder
    oracle: MimiModel

    def random_codes(self, frames: int, *, seed: int) -> Tensor:
        shape = (frames, self.config.quantizers)
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(self.config.codebook_size, shape, generator=generator)

    @torch.inference_mode()
    def whole(self, codes: Tensor) -> Tensor:
        """Decode `codes` [frames, codebooks] at once by transformers: [frames, samples]."""
        pcm = self.oracle.decode(codes.t()[None]).audio_values[0, 0]
        frames: Tensor = pcm.view(len(codes), -1)
        return frames

    @torch.inference_mode()
    def framewise(self, codes: Tensor, *, slot: int, state: MimiState) -> Tensor:
        """Decode `codes` [frames, codebooks] one by one in a slot: [frames, samples]."""
        rows = torch.tensor([slot])
        return torch.cat([self.decoder.decode(frame[None], rows, state) for frame in codes])

    def open_state(self, slots: int) -> MimiState:
        return self.decoder.open_state(slots, device=CPU, dtype=torch.float32)


def _our_config(config: OracleConfig) -> MimiConfig:
    return MimiConfig(
        hidden_size=config.hidden_size,
        filters=config.num_filters,
        upsampling_ratios=tuple(config.upsampling_ratios or ()),
        kernel_size=config.kernel_size,
        last_kernel_size=config.last_kernel_size,
        residual_kernel_size=config.residual_kernel_size,
        residual_layers=config.num_residual_layers,
        dilation_growth=config.dilation_growth_rate,
        compress=config.compress,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim or config.hidden_size // config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        norm_eps=config.norm_eps,
        rope_theta=dict(config.rope_parameters or {})["rope_theta"],
        sliding_window=config.sliding_window,
        codebook_size=config.codebook_size,
        codebook_dim=config.codebook_dim,
        vq_hidden_size=config.vector_quantization_hidden_dimension,
        quantizers=config.num_quantizers,
        semantic_quantizers=config.num_semantic_quantizers,
        upsample_groups=config.upsample_groups,
        upsample_stride=2,
    )


def _open_codec(folder: Path) -> Codec:
    """Load a transformers checkpoint twice: into the oracle, and by its flat names into ours."""
    oracle = MimiModel.from_pretrained(folder, dtype=torch.float32)  # in evaluation mode
    config = _our_config(oracle.config)
    flat = load_file(folder / "model.safetensors")
    tensors = {PREFIX + name: tensor for name, tensor in flat.items()}
    return Codec(config, tensors, _load(config, tensors), oracle)


def _load(config: MimiConfig, tensors: Mapping[str, Tensor]) -> MimiDecoder:
    decoder = MimiDecoder(config)
    decoder.load_tensors(tensors)
    return decoder


def _scramble(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Draw values under which every weight matters; fresh checkpoints have ones and zeros."""
    noise = torch.randn(tensor.shape, generator=generator)
    if name.endswith("cluster_usage"):
        return (noise.abs() + 0.1).index_fill(0, torch.tensor([1]), 0.0)  # 1 was never used
    if name.endswith("embed_sum"):
        return noise.index_copy(0, torch.tensor([1]), noise[1:2] * 1e-5)
    if name.endswith("layernorm.weight") or name.endswith("scale"):
        return 0.5 + 0.2 * noise
    if name.endswith("bias"):
        return 0.1 * noise
    if name.endswith("proj.weight") and "self_attn" in name:
        return noise * (1.5 / math.sqrt(tensor.shape[-1]))  # attention that looks at some, not all
    return tensor


@pytest.fixture(scope="module", params=list(SHAPES))
def codec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Codec:
    folder = tmp_path_factory.mktemp("codec")
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    MimiModel(OracleConfig(**SHAPES[request.param])).save_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    scrambled = {name: _scramble(name, stored[name], generator) for name in sorted(stored)}
    save_file(scrambled, folder / "model.safetensors", metadata={"format": "pt"})
    return _open_codec(folder)


@pytest.fixture(scope="module")
def nano_codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    folder = tmp_path_factory.mktemp("nano")
    config = json.loads((NANO_VOICE / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config["codec_config"]), encoding="utf-8")
    stored = load_file(NANO_VOICE / "model.safetensors")
    flat = {
        name.removeprefix(PREFIX): tensor.float()
        for name, tensor in stored.items()
        if name.startswith(PREFIX)
    }
    save_file(flat, folder / "model.safetensors", metadata={"format": "pt"})
    return _open_codec(folder)


def _relative_error(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max() / expected.abs().max())


def test_frame_by_frame_equals_the_whole_past_the_window(codec: Codec) -> None:
    codes = codec.random_codes(40, seed=1)
    assert 2 * len(codes) > 3 * codec.decoder.ring_positions.capacity
    actual = codec.framewise(codes, slot=1, state=codec.open_state(3))
    assert _relative_error(actual, codec.whole(codes)) < 2e-5


def test_every_frame_depends_on_earlier_frames(codec: Codec) -> None:
    codes = codec.random_codes(6, seed=2)
    whole = codec.whole(codes)
    alone = torch.cat([codec.whole(frame[None]) for frame in codes])
    assert _relative_error(alone, whole) > 0.05


@pytest.mark.parametrize("off_by", [-1, 1])
def test_another_attention_window_gives_other_samples(codec: Codec, off_by: int) -> None:
    codes = codec.random_codes(40, seed=3)
    window = codec.config.sliding_window + off_by
    other = _load(replace(codec.config, sliding_window=window), codec.tensors)
    misled = replace(codec, decoder=other)
    actual = misled.framewise(codes, slot=0, state=misled.open_state(1))
    assert _relative_error(actual, codec.whole(codes)) > 1e-3


def test_fewer_codebooks_than_the_codec_has(codec: Codec) -> None:
    codes = codec.random_codes(5, seed=4)[:, :3]
    actual = codec.framewise(codes, slot=0, state=codec.open_state(1))
    assert _relative_error(actual, codec.whole(codes)) < 2e-5


@dataclass(frozen=True, slots=True)
class Move:
    """One step of a schedule: the slots begun anew before it, and the slots it advances."""

    cleared: frozenset[int]
    rows: tuple[int, ...]


SLOTS = 3
DUMMY = SLOTS
MOVES = st.builds(
    Move,
    cleared=st.frozensets(st.integers(0, SLOTS - 1), max_size=1),
    rows=st.lists(st.integers(0, SLOTS - 1), unique=True, min_size=1).map(tuple),
)


@torch.inference_mode()
def _play(codec: Codec, moves: list[Move], *, batch: int) -> list[tuple[Tensor, Tensor]]:
    """Run a schedule padded to `batch` rows; return the codes and samples of every tenancy."""
    state = codec.open_state(SLOTS + 1)
    codes_by_slot: list[list[list[Tensor]]] = [[[]] for _ in range(SLOTS)]
    pcm: list[list[list[Tensor]]] = [[[]] for _ in range(SLOTS)]
    for index, move in enumerate(moves):
        for slot in move.cleared:
            state.clear(slot)
            codes_by_slot[slot].append([])
            pcm[slot].append([])
        rows = [*move.rows, *[DUMMY] * (batch - len(move.rows))]
        codes = codec.random_codes(batch, seed=index)
        frames = codec.decoder.decode(codes, torch.tensor(rows), state)
        for row, slot in enumerate(move.rows):
            codes_by_slot[slot][-1].append(codes[row])
            pcm[slot][-1].append(frames[row])
    return [
        (torch.stack(codes), torch.stack(samples))
        for slot in range(SLOTS)
        for codes, samples in zip(codes_by_slot[slot], pcm[slot], strict=True)
        if codes
    ]


@settings(max_examples=15, deadline=None)
@given(moves=st.lists(MOVES, min_size=1, max_size=40))
def test_rows_have_their_own_positions_and_slots_are_reused(
    codec: Codec, moves: list[Move]
) -> None:
    for codes, samples in _play(codec, moves, batch=SLOTS + 2):
        assert _relative_error(samples, codec.whole(codes)) < 2e-5


def test_a_step_leaves_other_slots_as_they_were(codec: Codec) -> None:
    state = codec.open_state(4)
    for slot in range(4):
        codec.framewise(codec.random_codes(3 + slot, seed=slot), slot=slot, state=state)
    before = MimiState(state.positions.clone(), state.contexts.clone(), state.rings.clone())
    codec.framewise(codec.random_codes(9, seed=9), slot=2, state=state)
    others = [0, 1, 3]
    assert torch.equal(state.positions[others], before.positions[others])
    assert torch.equal(state.contexts[others], before.contexts[others])
    assert torch.equal(state.rings[:, others], before.rings[:, others])
    assert int(state.positions[2]) == int(before.positions[2]) + 2 * 9


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rows", [[1], [2, 0, 3]])
@torch.inference_mode()
def test_the_cpu_s_kernels_equal_torch_s_operations_to_the_bit(
    rows: list[int], packed: bool, codec: Codec
) -> None:
    decoder = _load(codec.config, codec.tensors)
    if packed:
        decoder.pack()
    kernels = cpu_kernels(decoder, codec.config, len(rows))
    made, expected = codec.open_state(4), codec.open_state(4)
    slots = torch.tensor(rows)
    longer_than_the_ring = decoder.ring_positions.capacity
    for frame in range(longer_than_the_ring):
        codes = codec.random_codes(len(rows), seed=frame)
        if frame == 5:  # one stream ends, another begins
            made.clear(rows[0])
            expected.clear(rows[0])
        samples = decoder.decode(codes, slots, made, kernels=kernels)
        assert torch.equal(samples, decoder.decode(codes, slots, expected))
    for name in ("positions", "contexts", "rings"):
        assert torch.equal(getattr(made, name), getattr(expected, name))


def test_clear_resets_a_used_slot(codec: Codec) -> None:
    codes = codec.random_codes(20, seed=5)
    state = codec.open_state(2)
    fresh = codec.framewise(codes, slot=0, state=state)
    state.rings.fill_(torch.nan)
    state.contexts.fill_(torch.nan)
    state.clear(0)
    assert torch.equal(codec.framewise(codes, slot=0, state=state), fresh)


def test_cast_modules_keep_codebooks_and_angles_in_fp32(codec: Codec) -> None:
    cast = _load(codec.config, codec.tensors).to(torch.bfloat16)
    loaded_after = MimiDecoder(codec.config).to(torch.bfloat16)
    loaded_after.load_tensors(codec.tensors)
    for decoder in (cast, loaded_after):
        assert decoder.dequantizer.table.dtype == torch.float32
        assert torch.equal(decoder.dequantizer.table, codec.decoder.dequantizer.table)
        assert torch.equal(decoder.ring_positions.inv_freq, codec.decoder.ring_positions.inv_freq)
        assert {weight.dtype for weight in decoder.parameters()} == {torch.bfloat16}
    pairs = zip(cast.parameters(), loaded_after.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@torch.inference_mode()
def test_bf16_samples_are_close_to_fp32(codec: Codec) -> None:
    codes = codec.random_codes(10, seed=6)
    decoder = _load(codec.config, codec.tensors).to(torch.bfloat16)
    state = decoder.open_state(1, device=CPU, dtype=torch.bfloat16)
    actual = torch.cat([decoder.decode(frame[None], torch.tensor([0]), state) for frame in codes])
    assert actual.dtype == torch.float32
    assert 1e-6 < _relative_error(actual, codec.whole(codes)) < 0.1


def test_the_nano_voice_equals_transformers(nano_codec: Codec) -> None:
    codes = nano_codec.random_codes(60, seed=7)
    actual = nano_codec.framewise(codes, slot=1, state=nano_codec.open_state(2))
    assert actual.shape == (60, 1920)
    assert _relative_error(actual, nano_codec.whole(codes)) < 1e-4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.inference_mode()
def test_a_captured_step_replays_like_the_eager_one(codec: Codec) -> None:
    device = torch.device("cuda")
    decoder = _load(codec.config, codec.tensors).to(device)
    state = decoder.open_state(4, device=device, dtype=torch.float32)
    codes = torch.zeros(3, codec.config.quantizers, dtype=torch.int64, device=device)
    rows = torch.tensor([2, 3, 3], device=device)
    decoder.decode(codes, rows, state)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        pcm = decoder.decode(codes, rows, state)
    state.clear(2)
    frames = codec.random_codes(30, seed=8)
    spoken = []
    for frame in frames:
        codes[0] = frame.to(device)
        graph.replay()
        spoken.append(pcm[0].cpu())
    assert _relative_error(torch.stack(spoken), codec.whole(frames)) < 1e-3
