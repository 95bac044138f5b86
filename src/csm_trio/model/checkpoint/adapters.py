"""Recognize a PEFT adapter where a checkpoint is expected.

In: names of tensors and files. Out: `StartupError`, which says what to do. It must not know where
the files came from.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from csm_trio.errors import StartupError
from csm_trio.named_files import read_json

ADAPTER_CONFIG = "adapter_config.json"

_ADAPTER_WEIGHTS = "adapter_model."
# Names of PEFT's tuners (peft, `prefix` of each), of the layers that they wrap, and of llama.cpp's
# GGUF adapters.
_ADAPTER_TENSOR = re.compile(
    r"base_model\.model\."
    r"|.*\.(lora_\w+|base_layer|original_module|modules_to_save|ia3_l|hada_w\d\w*|lokr_w\d\w*"
    r"|oft_\w+|boft_\w+|vera_\w+)(\.|$)"
)
_MAX_CONFIG_BYTES = 1 << 20
_MAX_NAME_CHARS = 200


def refuse_adapter_tensors(checkpoint: str, names: Iterable[str]) -> None:
    """Raise `StartupError` if a tensor belongs to an adapter; `checkpoint` stands for the file."""
    if any(_ADAPTER_TENSOR.match(name) for name in names):
        raise StartupError(_sentence(checkpoint, None))


def refuse_adapter_name(checkpoint: str, weights: Path) -> None:
    """Raise `StartupError` if a file is named as PEFT names an adapter's."""
    if weights.name.startswith(_ADAPTER_WEIGHTS):
        raise StartupError(_sentence(checkpoint, None))


def refuse_adapter_files(checkpoint: str, folder: Path) -> None:
    """Raise `StartupError` if a folder without weights of a whole model holds an adapter."""
    config = folder / ADAPTER_CONFIG
    if config.is_file():
        raise StartupError(_sentence(checkpoint, _base_model(config)))
    if any(folder.glob(f"{_ADAPTER_WEIGHTS}*")):
        raise StartupError(_sentence(checkpoint, None))


def _base_model(config: Path) -> str | None:
    content = read_json(config, max_bytes=_MAX_CONFIG_BYTES)
    base = content.get("base_model_name_or_path") if isinstance(content, dict) else None
    is_shown = isinstance(base, str) and base.isprintable() and 0 < len(base) <= _MAX_NAME_CHARS
    return base if is_shown else None


def _sentence(checkpoint: str, base: str | None) -> str:
    named = "its base model" if base is None else f"its base model ({base})"
    return (
        f"{checkpoint} is a PEFT adapter, not a whole model: merge it into {named} first, with "
        "PEFT's merge_and_unload(), and serve the folder that save_pretrained() writes then."
    )
