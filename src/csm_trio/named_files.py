"""Read files that a setting names: bounded in size, with one sentence for what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path

from csm_trio.errors import StartupError

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def read_file(path: Path, *, max_bytes: int, name: str | None = None) -> bytes:
    """Return the bytes of a file; `name` stands for it in messages.

    Raises StartupError where it cannot be read, is longer than `max_bytes` (a device never ends),
    or is a Git LFS pointer.
    """
    shown = name or str(path)
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise StartupError(f"{shown} cannot be read: {error.strerror}.") from None
    if len(data) > max_bytes:
        raise StartupError(f"{shown} is longer than {max_bytes >> 20} MiB.")
    _refuse_pointer(data, shown)
    return data


def read_json(
    path: Path,
    *,
    max_bytes: int,
    name: str | None = None,
    read_object: Callable[[list[tuple[str, object]]], object] | None = None,
) -> object:
    """Return the value of a JSON file; `read_object` makes an object's value of its members.

    Raises StartupError as `read_file`, and for no valid JSON (a ValueError of `read_object`, too).
    """
    shown, data = name or str(path), read_file(path, max_bytes=max_bytes, name=name)
    try:
        value: object = json.loads(data, object_pairs_hook=read_object)
    except RecursionError:
        raise StartupError(f"{shown} is nested too deeply.") from None
    except ValueError as error:
        raise StartupError(f"{shown} is not valid JSON: {error}.") from None
    return value


def check_file(path: Path, *, max_bytes: int, name: str | None = None) -> None:
    """Check a file that another process is to read: a regular, readable one that is not too long.

    Raises StartupError as `read_file`.
    """
    shown = name or str(path)
    try:
        n_bytes = path.stat().st_size
        if not path.is_file():
            raise StartupError(f"{shown} is no regular file.")
        with path.open("rb") as file:
            _refuse_pointer(file.read(len(_LFS_POINTER)), shown)
    except OSError as error:
        raise StartupError(f"{shown} cannot be read: {error.strerror}.") from None
    if not 0 < n_bytes <= max_bytes:
        raise StartupError(f"{shown} must have 1 byte to {max_bytes >> 20} MiB.")


def refuse_lfs_pointer(path: Path) -> None:
    """Raise StartupError where a file of any size is a Git LFS pointer; OSError as `open` does."""
    with path.open("rb") as file:
        _refuse_pointer(file.read(len(_LFS_POINTER)), str(path))


def _refuse_pointer(data: bytes, shown: str) -> None:
    if data.startswith(_LFS_POINTER):
        raise StartupError(
            f"{shown} is a Git LFS pointer and not the file itself: run `git lfs pull` in its "
            "repository."
        )
