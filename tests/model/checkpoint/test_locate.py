"""Which files are served: the order of precedence, and one sentence for what cannot be had."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from gguf import GGMLQuantizationType
from huggingface_hub import constants, errors
from safetensors.torch import save_file

from csm_trio.errors import StartupError
from csm_trio.model.checkpoint.locate import CheckpointFiles, locate_checkpoint
from support.csm_flavors import (
    BACKBONE_EMBEDDINGS,
    write_codec,
    write_gguf,
    write_sesame,
    write_sharded,
)
from support.tiny_csm import write_tiny_checkpoint

COMMIT = "0" * 40


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the Hub library an empty cache and no network."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


@pytest.fixture
def bare(tiny: Path, tmp_path: Path) -> Path:
    """Make a folder that holds weights in Sesame's naming and nothing else."""
    write_sesame(tiny, tmp_path / "whole", with_codec=False)
    folder = tmp_path / "bare"
    folder.mkdir()
    shutil.copy(tmp_path / "whole" / "model.safetensors", folder)
    return folder


def _cached(cache: Path, repo_id: str) -> Path:
    """Make a snapshot folder as the Hub library caches it."""
    repository = cache / f"models--{repo_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return snapshot


def _copy(source: Path, folder: Path, *names: str) -> None:
    for name in names:
        shutil.copy(source / name, folder / name)


def _local(path: Path, *, model_id: str | None = None) -> CheckpointFiles:
    return locate_checkpoint(weights_path=path, model_id=model_id, model_file=None)


def _hub(model_id: str, model_file: str | None = None) -> CheckpointFiles:
    return locate_checkpoint(weights_path=None, model_id=model_id, model_file=model_file)


def test_nothing_named_is_the_embedded_voice() -> None:
    files = locate_checkpoint(weights_path=None, model_id=None, model_file=None)
    assert files.embedded
    assert files.codec == ()
    assert files.config is not None
    assert [path.name for path in files.weights] == ["model.safetensors"]
    assert all(path.parent == files.tokenizer.parent for path in (*files.weights, files.config))


def test_a_folder_is_complete_in_itself(tiny: Path) -> None:
    files = _local(tiny)
    assert files == CheckpointFiles(
        name=str(tiny),
        weights=(tiny / "model.safetensors",),
        codec=(),
        config=tiny / "config.json",
        generation_config=tiny / "generation_config.json",
        tokenizer=tiny / "tokenizer.json",
        embedded=False,
    )


def test_weights_path_goes_before_model_id(tiny: Path) -> None:
    assert _local(tiny, model_id="no/such").weights == (tiny / "model.safetensors",)


def test_a_repository_is_served_from_the_hub_cache(tiny: Path, hub_cache: Path) -> None:
    snapshot = _cached(hub_cache, "some/csm")
    shutil.copytree(tiny, snapshot, dirs_exist_ok=True)
    files = _hub("some/csm")
    assert files.weights == (snapshot / "model.safetensors",)
    assert files.tokenizer == snapshot / "tokenizer.json"
    assert files.name == "some/csm"


def test_shards_of_a_repository_go_before_its_single_file(tiny: Path, hub_cache: Path) -> None:
    snapshot = _cached(hub_cache, "some/csm")
    write_sharded(tiny, snapshot, index_name="transformers.safetensors.index.json")
    (snapshot / "model.safetensors").write_bytes(b"Sesame's")
    shards = [path.name for path in _hub("some/csm").weights]
    assert shards == [f"transformers-0000{shard}-of-00003.safetensors" for shard in (1, 2, 3)]


def _configure(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


@pytest.mark.parametrize("from_hub", [False, True], ids=["folder", "repository"])
@pytest.mark.parametrize(
    ("named", "files"),
    [
        ("second.safetensors", ["second.safetensors"]),
        ("sub/second.safetensors", ["sub/second.safetensors"]),
        (
            "other.safetensors.index.json",
            [f"other-{shard:05}-of-00003.safetensors" for shard in (1, 2, 3)],
        ),
        (None, ["model.safetensors"]),
    ],
)
def test_transformers_weights_goes_before_every_other_file(
    named: str | None, files: list[str], from_hub: bool, tiny: Path, tmp_path: Path, hub_cache: Path
) -> None:
    folder = _cached(hub_cache, "some/csm") if from_hub else tmp_path / "served"
    shutil.copytree(tiny, folder, dirs_exist_ok=True)
    (folder / "sub").mkdir()
    for copy in ("second.safetensors", "sub/second.safetensors"):
        shutil.copy(tiny / "model.safetensors", folder / copy)
    if named is not None:
        write_sharded(tiny, folder, index_name="other.safetensors.index.json")
    _configure(folder, transformers_weights=named)
    found = _hub("some/csm") if from_hub else _local(folder)
    assert [path.relative_to(folder).as_posix() for path in found.weights] == files


def test_a_file_that_is_named_goes_before_transformers_weights(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "served"
    shutil.copytree(tiny, folder)
    _configure(folder, transformers_weights="missing.safetensors")
    assert _local(folder / "model.safetensors").weights == (folder / "model.safetensors",)


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ("missing.safetensors", "lacks missing.safetensors, which transformers_weights names."),
        ("config.json", "is neither a .safetensors nor a .gguf file."),
        ("../served/model.safetensors", "names no file of its folder."),
        ("/etc/model.safetensors", "names no file of its folder."),
        ("C:\\model.safetensors", "names no file of its folder."),
        ("a\0b", "names no file of its folder."),
        ("", "names no file of its folder."),
        (7, "names no file of its folder."),
    ],
)
def test_transformers_weights_that_cannot_be_had_is_one_sentence(
    named: object, sentence: str, tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "served"
    shutil.copytree(tiny, folder)
    _configure(folder, transformers_weights=named)
    with pytest.raises(StartupError) as caught:
        _local(folder)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


LORA = {
    f"base_model.model.backbone_model.layers.0.self_attn.q_proj.lora_{half}.weight": torch.zeros(2)
    for half in "AB"
}
UNMERGED = {
    "backbone_model.layers.0.self_attn.q_proj.base_layer.weight": torch.zeros(2),
    "lm_head.weight": torch.zeros(2),
}


def _adapter_folder(folder: Path, base: object = "sesame/csm-1b") -> Path:
    folder.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(LORA, folder / "adapter_model.safetensors")
    return folder


def _unmerged(folder: Path) -> Path:
    folder.mkdir()
    save_file(UNMERGED, folder / "model.safetensors")
    return folder


def _pickled(folder: Path) -> Path:
    folder.mkdir()
    (folder / "adapter_model.bin").write_bytes(b"")
    return folder


def _adapter_beside(content: str, name: str) -> Callable[[Path], Path]:
    """Return what writes an adapter beside a base model's small files, without its weights."""

    def write(folder: Path) -> Path:
        (_adapter_folder(folder) / name).write_text(content)
        return folder

    return write


def _stale_index(folder: Path) -> Path:
    return _adapter_beside('{"weight_map": {"a": "b"}}', "model.safetensors.index.json")(folder)


def _configured(weights: str) -> Callable[[Path], Path]:
    return _adapter_beside(json.dumps({"transformers_weights": weights}), "config.json")


@pytest.mark.parametrize(
    ("write", "base"),
    [
        (_stale_index, "its base model (sesame/csm-1b) first"),
        (_configured("model.safetensors"), "its base model (sesame/csm-1b) first"),
        (lambda folder: _pickled(folder) / "adapter_model.bin", "its base model first"),
        (_adapter_folder, "its base model (sesame/csm-1b) first"),
        (lambda folder: _adapter_folder(folder, "a\nb"), "its base model first"),
        (lambda folder: _adapter_folder(folder, None), "its base model first"),
        (lambda folder: _adapter_folder(folder) / "adapter_model.safetensors", "its base model"),
        (_unmerged, "its base model first"),
        (_pickled, "its base model first"),
    ],
)
def test_an_adapter_is_told_what_it_is(
    write: Callable[[Path], Path], base: str, tmp_path: Path
) -> None:
    with pytest.raises(StartupError) as caught:
        _local(write(tmp_path / "tuned"))
    assert "is a PEFT adapter, not a whole model: merge it into" in str(caught.value)
    assert base in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_adapter_s_repository_is_told_what_it_is(hub_cache: Path) -> None:
    _adapter_folder(_cached(hub_cache, "some/lora"))
    for model_file in (None, "adapter_model.safetensors"):
        with pytest.raises(StartupError, match="some/lora is a PEFT adapter, not a whole model"):
            _hub("some/lora", model_file)


def test_a_merged_model_beside_its_adapter_is_served(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "merged"
    shutil.copytree(tiny, folder)
    _adapter_folder(folder)
    assert _local(folder).weights == (folder / "model.safetensors",)


def test_model_file_names_one_file_of_a_repository(tiny: Path, hub_cache: Path) -> None:
    snapshot = _cached(hub_cache, "some/gguf")
    write_gguf(tiny, snapshot / "q8.gguf", GGMLQuantizationType.Q8_0)
    _copy(tiny, _cached(hub_cache, "sesame/csm-1b"), "tokenizer.json")
    files = _hub("some/gguf", "q8.gguf")
    assert files.weights == (snapshot / "q8.gguf",)
    assert files.codec == ()
    assert files.config is None
    assert files.tokenizer.is_file()


def test_a_folder_with_one_gguf_needs_no_name(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "gguf"
    write_gguf(tiny, folder / "any.gguf", GGMLQuantizationType.F16)
    _copy(tiny, folder, "tokenizer.json")
    assert _local(folder).weights == (folder / "any.gguf",)


def test_missing_files_come_from_the_model_id_repository(
    tiny: Path, bare: Path, hub_cache: Path
) -> None:
    snapshot = _cached(hub_cache, "some/csm")
    write_sharded(tiny, snapshot, index_name="model.safetensors.index.json")
    _copy(tiny, _cached(hub_cache, "sesame/csm-1b"), "tokenizer.json")
    files = _local(bare / "model.safetensors", model_id="some/csm")
    assert files.tokenizer == snapshot / "tokenizer.json"
    assert files.config == snapshot / "config.json"
    assert files.generation_config == snapshot / "generation_config.json"
    assert files.weights == (bare / "model.safetensors",)
    assert {path.parent for path in files.codec} == {snapshot}


def test_the_codec_s_own_folder_goes_before_the_hub(
    tiny: Path, bare: Path, hub_cache: Path
) -> None:
    write_codec(tiny, bare / "codec")
    write_codec(tiny, _cached(hub_cache, "kyutai/mimi"))
    _copy(tiny, bare, "tokenizer.json")
    assert _local(bare).codec == (bare / "codec" / "model.safetensors",)


def test_kyutai_s_mimi_goes_before_csm_1b(tiny: Path, bare: Path, hub_cache: Path) -> None:
    _copy(tiny, bare, "tokenizer.json")
    csm_1b = _cached(hub_cache, "sesame/csm-1b")
    write_sharded(tiny, csm_1b, index_name="transformers.safetensors.index.json")
    assert {path.parent for path in _local(bare).codec} == {csm_1b}
    mimi = _cached(hub_cache, "kyutai/mimi")
    write_codec(tiny, mimi)
    assert _local(bare).codec == (mimi / "model.safetensors",)


def test_shards_may_be_in_a_folder_below(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    folder.mkdir()
    write_sharded(tiny, folder, index_name="model.safetensors.index.json")
    (folder / "parts").mkdir()
    shards = sorted(folder.glob("*.safetensors"))
    for shard in shards:
        shard.rename(folder / "parts" / shard.name)
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace('"model-', '"parts/model-'))
    assert _local(folder).weights == tuple(folder / "parts" / shard.name for shard in shards)


def test_only_shards_that_hold_the_codec_are_asked_for(
    tiny: Path, bare: Path, hub_cache: Path
) -> None:
    _copy(tiny, bare, "tokenizer.json")
    snapshot = _cached(hub_cache, "sesame/csm-1b")
    write_sharded(tiny, snapshot, index_name="transformers.safetensors.index.json")
    weight_map = {BACKBONE_EMBEDDINGS: "absent.safetensors"}
    weight_map |= {"codec_model.x": "transformers-00001-of-00003.safetensors"}
    index = snapshot / "transformers.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert _local(bare).codec == (snapshot / "transformers-00001-of-00003.safetensors",)


def _no_weights(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    return folder


def _other_suffix(folder: Path) -> Path:
    return (folder / "model.safetensors").rename(folder / "model.bin")


def _two_gguf(folder: Path) -> Path:
    (folder / "model.safetensors").rename(folder / "a.gguf")
    (folder / "b.gguf").touch()
    return folder


def _index_of(content: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "model.safetensors.index.json").write_text(content)
        return folder

    return write


def _without_tokenizer(folder: Path) -> Path:
    (folder / "codec").mkdir()
    (folder / "codec" / "model.safetensors").touch()
    return folder


LOCAL_PROBLEMS: list[tuple[Callable[[Path], Path], str]] = [
    (lambda folder: folder / "none", r"none does not exist\.$"),
    (_no_weights, r"has no model\.safetensors and no index of shards: name"),
    (_two_gguf, r"has no model\.safetensors and no index of shards: name"),
    (_other_suffix, r"model\.bin is neither a \.safetensors nor a \.gguf file\.$"),
    (_index_of("{"), r"index\.json is not valid JSON"),
    (_index_of("[]"), r"it has no weight_map of file names\.$"),
    (_index_of('{"weight_map": {"a": 3}}'), r"it has no weight_map of file names\.$"),
    (_index_of('{"weight_map": {"a": "b.safetensors"}}'), r"lacks the shard b\.safetensors"),
    *(
        (
            _index_of(json.dumps({"weight_map": {"a": name}})),
            "a shard that is no file of its folder",
        )
        for name in ("../b.safetensors", "/b.safetensors", "a\nb", "a\0b", "..\\b", "", ".")
    ),
    (lambda folder: folder, r"holds no codec: put Mimi's model\.safetensors"),
    (_without_tokenizer, r"has no tokenizer\.json: put one beside it, or pass --model-id"),
]


@pytest.mark.parametrize(("spoil", "sentence"), LOCAL_PROBLEMS)
def test_a_local_checkpoint_that_cannot_be_had_is_one_sentence(
    spoil: Callable[[Path], Path], sentence: str, bare: Path
) -> None:
    with pytest.raises(StartupError, match=sentence) as caught:
        _local(spoil(bare))
    assert "\n" not in str(caught.value)


def test_model_file_alone_names_the_flag_that_is_missing() -> None:
    with pytest.raises(StartupError, match="pass --model-id with it"):
        locate_checkpoint(weights_path=None, model_id=None, model_file="q8.gguf")


def test_a_repository_that_is_not_cached_is_one_sentence_offline() -> None:
    with pytest.raises(StartupError, match=r"^some/csm is not in the local Hub cache") as caught:
        _hub("some/csm")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_cached_is_named_offline(hub_cache: Path) -> None:
    _cached(hub_cache, "some/csm")
    with pytest.raises(StartupError, match=r"^q8\.gguf of some/csm is not in the local Hub cache"):
        _hub("some/csm", "q8.gguf")


def test_an_id_of_another_form_is_one_sentence() -> None:
    with pytest.raises(StartupError, match="'a/b/c' is no repository id"):
        _hub("a/b/c")


def _answered(kind: type[errors.HfHubHTTPError], status: int) -> errors.HfHubHTTPError:
    """Build the Hub library's error for an HTTP status."""
    response: Any = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind("refused\nat length", response=response)


HUB_PROBLEMS: list[tuple[Callable[[], Exception], str]] = [
    (lambda: _answered(errors.GatedRepoError, 403), r"is gated: accept its terms at https://h"),
    (lambda: _answered(errors.RepositoryNotFoundError, 404), r"The Hub has no model repository"),
    (lambda: _answered(errors.RevisionNotFoundError, 404), r"The Hub has no model repository"),
    (lambda: _answered(errors.DisabledRepoError, 403), r"has disabled the repository some/csm\.$"),
    (lambda: _answered(errors.HfHubHTTPError, 401), r"The Hub refuses some/csm: set HF_TOKEN"),
    (lambda: _answered(errors.HfHubHTTPError, 503), r"The Hub answered 503 for some/csm; try"),
    (lambda: errors.OfflineModeIsEnabled("x"), r"the Hub cannot be reached"),
    (lambda: errors.LocalEntryNotFoundError("x"), r"the Hub cannot be reached"),
    (lambda: errors.HTTPError("proxy\nbroken"), r"could not be fetched .*: proxy broken"),  # type: ignore[attr-defined]
    (lambda: RuntimeError("Data processing error"), r"could not be fetched .*: Data processing"),
    (lambda: OSError(28, "No space left on device"), r"could not be fetched .*No space left"),
]


@pytest.mark.parametrize(("failure", "sentence"), HUB_PROBLEMS)
def test_whatever_the_hub_answers_is_one_sentence(
    failure: Callable[[], Exception], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(repo_id: str, *, allow_patterns: list[str]) -> str:
        raise failure()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(StartupError, match=sentence) as caught:
        _hub("some/csm")
    assert "\n" not in str(caught.value)


def test_a_repository_without_the_file_is_reported(
    tiny: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _copy(tiny, _cached(hub_cache, "some/csm"), "config.json")

    def refuse(repo_id: str, name: str) -> str:
        raise _answered(errors.RemoteEntryNotFoundError, 404)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(StartupError, match=r"^some/csm has no file q9\.gguf\.$"):
        _hub("some/csm", "q9.gguf")
    with pytest.raises(StartupError, match=r"^some/csm has no model\.safetensors .* --model-file"):
        _hub("some/csm")
