"""Locate the files of the checkpoint to serve: local ones, the Hub's, or the embedded voice's.

In: paths and names from the command line. Out: paths of local files. It must not know tensors
beyond their names, nor any size.

Weights: `weights_path`, else `model_id` (with `model_file`), else the embedded voice. In a folder
or repository the file that `transformers_weights` of its `config.json` names takes precedence over
an index of shards, and that over a single `model.safetensors`: `sesame/csm-1b` holds shards in
transformers' naming beside one file in Sesame's. Files that the weights lack are
looked up in this order:

- tokenizer: the `model_id` repository, then `sesame/csm-1b`;
- codec: the weights themselves, then a folder `codec` beside them, then the `model_id` repository,
  then `kyutai/mimi`, then `sesame/csm-1b`;
- configurations: the `model_id` repository, else CSM-1B's sizes and sampling, which are built in.
"""

import importlib.resources
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath

from csm_trio.errors import StartupError
from csm_trio.model.checkpoint import hub
from csm_trio.model.checkpoint.adapters import (
    ADAPTER_CONFIG,
    refuse_adapter_files,
    refuse_adapter_name,
    refuse_adapter_tensors,
)
from csm_trio.model.checkpoint.tensor_files import tensor_names
from csm_trio.model.checkpoint.tensor_names import CODEC_PREFIX
from csm_trio.named_files import read_json

CSM_1B = "sesame/csm-1b"
MIMI = "kyutai/mimi"

_INDEX_SUFFIX = ".safetensors.index.json"
_MAX_INDEX_BYTES = 64 << 20
_SINGLE_FILE = "model.safetensors"
_SUFFIXES = (".safetensors", ".gguf")
_CODEC_FOLDER = "codec"
_CONFIG = "config.json"
_MAX_CONFIG_BYTES = 16 << 20
_SMALL_FILES = [
    _CONFIG,
    ADAPTER_CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    f"*{_INDEX_SUFFIX}",
]


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """A checkpoint's files, all of them local; `name` stands for it in messages."""

    name: str
    weights: tuple[Path, ...]
    codec: tuple[Path, ...]  # empty if the codec is in `weights`
    config: Path | None
    generation_config: Path | None
    tokenizer: Path
    embedded: bool


@dataclass(frozen=True, slots=True)
class _Source:
    """A folder of checkpoint files; `fetch` returns the local path of one, None if missing."""

    name: str
    folder: Path
    fetch: Callable[[str], Path | None]

    def find(self, name: str) -> Path | None:
        return _existing(self.folder / name)


CheckLocal = Callable[[str, tuple[Path, ...], Path | None], None]
"""Judges a checkpoint by its name, its weights and the configuration beside them, if any."""


def locate_checkpoint(
    *,
    weights_path: Path | None,
    model_id: str | None,
    model_file: str | None,
    check_local: CheckLocal = lambda name, weights, config: None,
) -> CheckpointFiles:
    """Find, and where needed download, the files of the checkpoint to serve.

    `check_local` is called for a local checkpoint before anything is looked for on the Hub.
    Raises `StartupError` with one sentence if a file is missing or cannot be fetched, and for an
    adapter.
    """
    if weights_path is not None:
        source, weights = _local_weights(weights_path, model_file)
        check_local(source.name, weights, source.find(_CONFIG))
        return _assemble(source, weights, fallback_id=model_id)
    if model_id is not None:
        source = _repository(model_id)
        return _assemble(source, _weights_in(source, model_file), fallback_id=None)
    if model_file is not None:
        raise StartupError("--model-file names a file of a repository: pass --model-id with it.")
    source = _local_source(_embedded_folder(), name="the embedded voice")
    return _assemble(source, _weights_in(source, None), fallback_id=None)


def _local_weights(path: Path, model_file: str | None) -> tuple[_Source, tuple[Path, ...]]:
    if path.is_dir():
        source = _local_source(path, name=str(path))
        return source, _weights_in(source, model_file)
    if not path.is_file():
        raise StartupError(f"--weights-path: {path} does not exist.")
    source = _local_source(path.parent, name=str(path))
    return source, _weights_in(source, path.name)


def _assemble(
    source: _Source, weights: tuple[Path, ...], *, fallback_id: str | None
) -> CheckpointFiles:
    """Add the other files to the weights; look up missing ones in repository `fallback_id`."""
    codec = _locate_codec(source, weights, fallback_id=fallback_id)
    tokenizer, config = source.find("tokenizer.json"), source.find("config.json")
    generation_config = source.find("generation_config.json")
    if fallback_id is not None and (tokenizer is None or config is None):
        fallback = _repository(fallback_id)
        tokenizer = tokenizer or fallback.find("tokenizer.json")
        if config is None:
            config = fallback.find("config.json")
            generation_config = generation_config or fallback.find("generation_config.json")
    return CheckpointFiles(
        name=source.name,
        weights=weights,
        codec=codec,
        config=config,
        generation_config=generation_config,
        tokenizer=tokenizer or _csm_1b_tokenizer(source),
        embedded=source.folder == _embedded_folder(),
    )


def _weights_in(source: _Source, model_file: str | None) -> tuple[Path, ...]:
    """Fetch the weights: `model_file`, or by the order of precedence."""
    weights = _choose_weights(source, model_file)
    for path in weights:
        refuse_adapter_tensors(source.name, tensor_names(path))
    return weights


def _choose_weights(source: _Source, model_file: str | None) -> tuple[Path, ...]:
    if model_file is not None:
        named = source.fetch(model_file)
        if named is None:
            raise StartupError(f"{source.name} has no file {model_file}.")
        return _named_weights(source, named)
    try:
        return _default_weights(source)
    except StartupError:  # not in the cache, and no network; or a base model's files without it
        refuse_adapter_files(source.name, source.folder)
        raise


def _default_weights(source: _Source) -> tuple[Path, ...]:
    """Fetch the weights of a folder by the order of precedence."""
    configured = _configured_weights(source)
    if configured is not None:
        return _named_weights(source, configured)
    index = _index_in(source)
    if index is not None:
        return _shards(source, index)
    single = source.fetch(_SINGLE_FILE) or _only_gguf(source.folder)
    if single is None:
        raise StartupError(
            f"{source.name} has no {_SINGLE_FILE} and no index of shards: "
            f"name its weights file ({' or '.join(_SUFFIXES)}) with --model-file."
        )
    return (single,)


def _named_weights(source: _Source, named: Path) -> tuple[Path, ...]:
    if named.name.endswith(_INDEX_SUFFIX):
        return _shards(source, named)
    if named.suffix not in _SUFFIXES:
        refuse_adapter_name(source.name, named)
        raise StartupError(f"{named} is neither a .safetensors nor a .gguf file.")
    return (named,)


def _configured_weights(source: _Source) -> Path | None:
    """Fetch the file that `transformers_weights` of `config.json` names, within the folder.

    Source: transformers, modeling_utils.py (`_get_resolved_checkpoint_files`). Raises
    `StartupError` if the file is missing, or the name no string or not of the folder.
    """
    config = source.find(_CONFIG)
    content = {} if config is None else read_json(config, max_bytes=_MAX_CONFIG_BYTES)
    name = content.get("transformers_weights") if isinstance(content, dict) else None
    if name is None:
        return None
    if not isinstance(name, str) or not _is_within(name):
        raise StartupError(f"{config}: transformers_weights names no file of its folder.")
    named = source.fetch(name)
    if named is None:
        raise StartupError(f"{source.name} lacks {name}, which transformers_weights names.")
    return named


def _is_within(name: str) -> bool:
    """Return whether a printable name is of a file below its folder, whatever the platform."""
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return name.isprintable() and all(
        path.parts and not path.anchor and ".." not in path.parts for path in paths
    )


def _index_in(source: _Source) -> Path | None:
    """Choose the index of shards: the library's default name, else the first in the alphabet."""
    default = source.find(f"model{_INDEX_SUFFIX}")
    return default or min(source.folder.glob(f"*{_INDEX_SUFFIX}"), default=None)


def _only_gguf(folder: Path) -> Path | None:
    found = list(folder.glob("*.gguf"))
    return found[0] if len(found) == 1 else None


def _shards(source: _Source, index: Path, *, prefix: str = "") -> tuple[Path, ...]:
    """Fetch the shards of an index that hold a tensor whose name starts with `prefix`."""
    wanted = {shard for name, shard in _weight_map(index).items() if name.startswith(prefix)}
    shards = []
    for name in sorted(wanted):
        if not _is_within(name):
            raise StartupError(f"{index} names a shard that is no file of its folder: {name!r}.")
        shard = source.fetch(name)
        if shard is None:
            raise StartupError(f"{source.name} lacks the shard {name} that {index.name} names.")
        shards.append(shard)
    return tuple(shards)


def _weight_map(index: Path) -> dict[str, str]:
    content = read_json(index, max_bytes=_MAX_INDEX_BYTES)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not all(
        isinstance(shard, str) for shard in weight_map.values()
    ):
        raise StartupError(f"{index} is no index of shards: it has no weight_map of file names.")
    return weight_map


def _locate_codec(
    source: _Source, weights: tuple[Path, ...], *, fallback_id: str | None
) -> tuple[Path, ...]:
    if any(name.startswith(CODEC_PREFIX) for path in weights for name in tensor_names(path)):
        return ()
    codec_file = source.find(f"{_CODEC_FOLDER}/{_SINGLE_FILE}")
    if codec_file is not None:
        return (codec_file,)
    if fallback_id is not None and (shards := _codec_shards(fallback_id)):
        return shards
    problems = []
    for fetch in (_mimi_file, partial(_codec_shards, CSM_1B)):
        try:
            found = fetch()
        except StartupError as error:
            problems.append(str(error))
        else:
            if found:
                return found
    raise StartupError(
        f"{source.name} holds no codec: put Mimi's {_SINGLE_FILE} (the repository {MIMI}) into a "
        f"folder named {_CODEC_FOLDER} beside it. {' '.join(problems)}".rstrip()
    )


def _codec_shards(repo_id: str) -> tuple[Path, ...]:
    """Fetch the shards of a repository that hold a codec; none if it has no index of shards.

    A single file is not searched: its tensor names would need a download of the whole file.
    """
    source = _repository(repo_id)
    index = _configured_weights(source) or _index_in(source)
    if index is None or not index.name.endswith(_INDEX_SUFFIX):
        return ()
    return _shards(source, index, prefix=CODEC_PREFIX)


def _mimi_file() -> tuple[Path, ...]:
    path = hub.fetch_file(MIMI, _SINGLE_FILE)
    return () if path is None else (path,)


def _csm_1b_tokenizer(source: _Source) -> Path:
    problem = ""
    try:
        path = _repository(CSM_1B).find("tokenizer.json")
    except StartupError as error:
        path, problem = None, f" {error}"
    if path is None:
        raise StartupError(
            f"{source.name} has no tokenizer.json: put one beside it, or pass --model-id with a "
            f"repository that has one.{problem}"
        )
    return path


def _repository(repo_id: str) -> _Source:
    """Fetch a repository's small files; `fetch` of the result downloads weights by name."""
    folder = hub.fetch_matching(repo_id, _SMALL_FILES)
    return _Source(repo_id, folder, lambda name: hub.fetch_file(repo_id, name))


def _local_source(folder: Path, *, name: str) -> _Source:
    return _Source(name, folder, lambda file_name: _existing(folder / file_name))


def _embedded_folder() -> Path:
    return Path(str(importlib.resources.files("csm_trio") / "nano_voice"))


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None
