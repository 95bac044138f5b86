"""File names of items from a template such as `{index:05}_{voice}`."""

import re
from collections.abc import Mapping

from csm_trio.audio.formats import AudioFormat
from csm_trio.batch.item import BadInput

DEFAULT_TEMPLATE = "{index:05}"

_MAX_NAME_BYTES = 200
_MAX_SLUG_CHARS = 40
# Separators, control characters, half characters, and what other systems refuse in names.
_UNSAFE = re.compile(r'[\x00-\x1f\x7f\ud800-\udfff/\\:*?"<>|]+')


def file_name(template: str, values: Mapping[str, object], audio_format: AudioFormat) -> str:
    """Return a file name without a folder; raises `BadInput` where the template gives none."""
    try:
        name = template.format_map(values)
    except KeyError as error:
        known = ", ".join(f"{{{field}}}" for field in values)
        raise BadInput(f"the file name has {{{error.args[0]}}}, but only {known} exist") from None
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        raise BadInput(f"the file name {template!r} cannot be filled in: {error}") from None
    return checked_name(name, audio_format)


def checked_name(name: str, audio_format: AudioFormat) -> str:
    """Return a safe file name that ends as its format's names do; raises `BadInput`."""
    name = _UNSAFE.sub("_", name).strip()
    suffix = f".{audio_format.codec}"
    if not name.lower().endswith(suffix):
        name += suffix
    stem = name.removesuffix(suffix)
    if not stem.strip(". ") or name.startswith("."):
        raise BadInput(f"{name!r} is no file name")
    if len(name.encode("utf-8")) > _MAX_NAME_BYTES:
        raise BadInput(f"the file name {name[:30]!r}… is longer than {_MAX_NAME_BYTES} bytes")
    return name


def slug(text: str) -> str:
    """Return the first words of a text in lower case, joined by hyphens."""
    words = "-".join(re.findall(r"[^\W_]+", text.lower()))
    return words[:_MAX_SLUG_CHARS].strip("-") or "text"
