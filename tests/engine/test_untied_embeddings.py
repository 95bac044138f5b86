"""A checkpoint whose depth decoder has audio embeddings of its own, in every kind of file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file, save_file

from csm_trio.config import EngineConfig
from csm_trio.engine.load import load_model
from csm_trio.engine.memory import weight_bytes
from csm_trio.engine.prompt import TextTokenizer
from csm_trio.engine.runner import TorchRunner
from csm_trio.engine.utterance import Frame, Sampling, Utterance
from csm_trio.model.csm import CSM
from support.csm_flavors import (
    BACKBONE_EMBEDDINGS,
    DEPTH_EMBEDDINGS,
    SMALL_FILES,
    write_gguf,
    write_sharded,
    write_single,
)
from support.tiny_csm import load_reference, write_tiny_checkpoint

TEXT = "Hello there, how are you?"
FRAMES = 20
INDEX = "model.safetensors.index.json"
PROJECTOR = "depth_decoder.model.inputs_embeds_projector.weight"


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untied")
    return write_tiny_checkpoint(folder, tie_codebooks_embeddings=False)


def _model(path: Path, dtype: str = "f32") -> CSM:
    return load_model(EngineConfig(weights_path=path, device="cpu", dtype=dtype)).model


def test_greedy_frames_equal_transformers_generate(untied: Path) -> None:
    reference: Any = load_reference(untied)
    tokenizer = TextTokenizer.from_file(untied / "tokenizer.json")
    ids = torch.tensor([tokenizer.encode(TEXT, speaker_id=0)])
    with torch.inference_mode():
        expected = reference.generate(
            input_ids=ids, max_new_tokens=FRAMES, do_sample=False, depth_decoder_do_sample=False
        )[0].numpy()
    loaded = load_model(EngineConfig(weights_path=untied, device="cpu"))
    runner = TorchRunner(
        loaded.config,
        loaded.model,
        loaded.codec,
        loaded.tokenizer,
        slots=1,
        placement=loaded.placement,
    )
    runner.open([(0, Utterance(TEXT, 0, 64, Sampling(temperature=0)))])
    runner.prefill_all()
    frames = [runner.step([0])[0] for _ in range(FRAMES)]
    made = np.stack([frame.codes for frame in frames if isinstance(frame, Frame)])
    assert len(np.unique(made, axis=0)) > 5, "the oracle's frames must differ"
    np.testing.assert_array_equal(made, expected)


def _shards(source: Path, folder: Path) -> Path:
    return write_sharded(source, folder, index_name=INDEX)


def _depth_table_first(source: Path, folder: Path) -> Path:
    """Write shards of which the first that is read holds the depth decoder's table alone."""
    _shards(source, folder)
    for shard in folder.glob("*.safetensors"):
        kept = load_file(shard)
        table = kept.pop(DEPTH_EMBEDDINGS, None)
        if table is not None:
            save_file(kept, shard)
            save_file({DEPTH_EMBEDDINGS: table}, folder / "a.safetensors")
            index = (folder / INDEX).read_text()
            named = f'"{DEPTH_EMBEDDINGS}": "{shard.name}"'
            assert named in index
            (folder / INDEX).write_text(
                index.replace(named, f'"{DEPTH_EMBEDDINGS}": "a.safetensors"')
            )
            return folder
    raise AssertionError("no shard held the depth decoder's table")


def _gguf(source: Path, folder: Path) -> Path:
    path = write_gguf(source, folder / "any.gguf", GGMLQuantizationType.F32)
    for name in SMALL_FILES:
        (folder / name).write_bytes((source / name).read_bytes())
    return path


FLAVORS: dict[str, Callable[[Path, Path], Path]] = {
    "as saved": lambda source, _: source,
    "shards": _shards,
    "depth decoder's table first": _depth_table_first,
    "GGUF": _gguf,
}


@pytest.mark.parametrize("flavor", FLAVORS)
def test_each_table_is_taken_from_its_own_name(flavor: str, untied: Path, tmp_path: Path) -> None:
    model = _model(FLAVORS[flavor](untied, tmp_path / "flavor"))
    tensors = load_file(untied / "model.safetensors")
    assert not torch.equal(tensors[BACKBONE_EMBEDDINGS], tensors[DEPTH_EMBEDDINGS])
    assert torch.equal(model.audio_embedding, tensors[BACKBONE_EMBEDDINGS])
    projected = tensors[DEPTH_EMBEDDINGS] @ tensors[PROJECTOR].T
    torch.testing.assert_close(model.depth_embedding.data, projected)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "int8"])
def test_a_small_difference_of_the_tables_is_kept(dtype: str, tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    table = tensors.pop(DEPTH_EMBEDDINGS)
    own = table.clone()
    own[7, 3] += 0.004 * table.abs().max()
    both = {BACKBONE_EMBEDDINGS: own, DEPTH_EMBEDDINGS: table}
    save_file(tensors | both, folder / "model.safetensors", metadata={"format": "pt"})
    kept = torch.float32 if dtype == "f32" else torch.bfloat16
    assert not torch.equal(own.to(kept), table.to(kept))
    model = _model(folder, dtype)
    assert torch.equal(model.audio_embedding, own.to(kept))
    tied = _model(write_single(folder, tmp_path / "depth", embeddings=()), dtype)
    assert torch.equal(model.depth_embedding, tied.depth_embedding)


@pytest.mark.parametrize("dtype", ["f32", "int8", "int4"])
def test_no_checkpoint_keeps_a_third_table(dtype: str, untied: Path, tmp_path: Path) -> None:
    tied = write_tiny_checkpoint(tmp_path / "tied")
    folders = [untied, tied]
    for number, names in enumerate(
        [(BACKBONE_EMBEDDINGS,), (DEPTH_EMBEDDINGS,), (BACKBONE_EMBEDDINGS, DEPTH_EMBEDDINGS)]
    ):
        folders.append(write_single(tied, tmp_path / str(number), embeddings=names))
    assert len({weight_bytes(_model(folder, dtype)) for folder in folders}) == 1
