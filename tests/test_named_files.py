"""What is wrong with a file that a setting names is one sentence, before the Hub is asked."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from csm_trio.config import EngineConfig, load_config
from csm_trio.engine.load import load_model, load_runner
from csm_trio.errors import StartupError
from csm_trio.model.checkpoint import hub
from csm_trio.voices import VoiceCatalog
from support.csm_flavors import read_tensors, write_single
from support.tiny_csm import write_tiny_checkpoint

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 6000000000\n"
DEEP = "[" * 100_000
WEIGHTS = "model.safetensors"


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a whole small checkpoint; the Hub must not be asked."""
    folder = tmp_path / "csm"
    folder.mkdir()
    write_tiny_checkpoint(folder)

    def refuse(*arguments: object) -> None:
        raise AssertionError(f"the Hub was asked for {arguments}")

    monkeypatch.setattr(hub, "fetch_matching", refuse)
    monkeypatch.setattr(hub, "fetch_file", refuse)
    return folder


def change_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "tokenizer.json"])
def test_a_git_lfs_pointer_says_that_it_is_one(checkpoint: Path, name: str) -> None:
    (checkpoint / name).write_bytes(POINTER)
    with pytest.raises(StartupError, match=r"is a Git LFS pointer .* `git lfs pull`"):
        load_model(EngineConfig(weights_path=checkpoint, device="cpu"))


def test_a_pointer_in_place_of_a_gguf_file_says_so(checkpoint: Path) -> None:
    path = checkpoint / "voice.gguf"
    path.write_bytes(POINTER)
    with pytest.raises(StartupError, match="is a Git LFS pointer"):
        load_model(EngineConfig(weights_path=path, device="cpu"))


def lose_a_tensor(folder: Path) -> None:
    from safetensors.torch import save_file

    tensors = read_tensors(folder)
    tensors.pop("backbone_model.layers.0.self_attn.q_proj.weight")
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: change_config(folder, model_type="llama"), "model_type is 'llama'"),
        (lose_a_tensor, "lacks tensor backbone_model.layers.0.self_attn.q_proj.weight"),
    ],
)
def test_local_files_are_judged_before_the_hub_is_asked(
    checkpoint: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(checkpoint)
    # What is missing would be looked for on the Hub.
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(StartupError, match=message):
        load_model(EngineConfig(weights_path=checkpoint, device="cpu"))


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"]
)
def test_deep_json_is_one_sentence(checkpoint: Path, name: str) -> None:
    (checkpoint / name).write_text(DEEP)
    with pytest.raises(StartupError, match=r"nested too deeply|is no tokenizer"):
        load_model(EngineConfig(weights_path=checkpoint, device="cpu"))


def test_a_deep_index_of_shards_is_one_sentence(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors.index.json").write_text(DEEP)
    with pytest.raises(StartupError, match="nested too deeply"):
        load_model(EngineConfig(weights_path=checkpoint, device="cpu"))


def test_deep_settings_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "deep.toml"
    path.write_text(f"port = {DEEP}")
    with pytest.raises(StartupError, match=r"deep\.toml is (nested too deeply|not valid TOML)"):
        load_config({"config": str(path)}, {})


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_in_place_of_a_clip_is_one_sentence(tmp_path: Path, device: str) -> None:
    path = tmp_path / "voices.json"
    path.write_text(
        json.dumps({"a": {"speaker_id": 0, "clips": [{"file": device, "text": "Hi."}]}})
    )
    with pytest.raises(StartupError, match="the clip /dev/"):
        VoiceCatalog.load(path)


@pytest.mark.parametrize(
    "load", [VoiceCatalog.load, lambda path: load_config({"config": str(path)}, {})]
)
def test_a_file_that_never_ends_is_one_sentence(load: Callable[[Path], object]) -> None:
    with pytest.raises(StartupError, match="longer than"):
        load(Path("/dev/zero"))


def test_a_folder_without_permission_is_one_sentence(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(StartupError, match=r"cannot be loaded: .*Permission denied"):
        load_runner(EngineConfig(weights_path=checkpoint, device="cpu"))


def test_a_whole_checkpoint_needs_no_hub(checkpoint: Path, tmp_path: Path) -> None:
    single = tmp_path / "single"
    single.mkdir()
    write_single(
        checkpoint, single, embeddings=("backbone_model.embed_tokens.embed_audio_tokens.weight",)
    )
    assert load_model(EngineConfig(weights_path=single, device="cpu")).name == str(single)
