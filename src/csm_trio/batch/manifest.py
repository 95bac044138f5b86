"""The output folder: audio files written whole or not at all, and the manifest of those that are.

The manifest is a file of JSON lines, one for each time that a file was finished.
A line is appended after its file is on the disk, so a line without its file means a later loss.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from csm_trio.batch.item import BadInput, Item, sha256

MANIFEST_NAME = "manifest.jsonl"
_PARTIAL_SUFFIX = ".partial"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the manifest: a finished file, what it was made from, and what it holds.

    `text` and `settings` are the item's hashes, `audio` is the file's. `natural_s` is the duration
    at the item's own speed; `speed` is the one at which the file was generated. `loudness_lufs` is
    None where it was not measured.
    """

    file: str
    line: int
    text: str
    settings: str
    audio: str
    audio_s: float
    natural_s: float
    speed: float
    loudness_lufs: float | None = None

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """Return the entry of one line; raises `ValueError` where it is none."""
        try:
            entry = cls(**json.loads(line))
        except TypeError:
            raise ValueError("not an entry") from None
        names = (entry.file, entry.text, entry.settings, entry.audio)
        numbers = (entry.audio_s, entry.natural_s, entry.speed)
        if not all(isinstance(name, str) for name in names) or not all(
            isinstance(number, int | float) for number in numbers
        ):
            raise ValueError("not an entry")
        return entry

    def serves(self, item: Item) -> bool:
        """Return whether its audio is what the item would get, if the file is intact."""
        return (self.text, self.settings) == item.request_key and self.speed == item.speed_for(
            self.natural_s
        )


class OutputFolder:
    """The folder of one batch, locked for one process; all calls block on the disk.

    The lock ends with the process, also by SIGKILL.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[Entry] = []
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path / MANIFEST_NAME, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise BadInput(f"Cannot write to {path}: {error.strerror}.") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise BadInput(f"Another batch is writing to {path}.") from None
        self._load()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def keep(self, items: Sequence[Item]) -> dict[str, Entry]:
        """Return the entries of the items that are finished, by file name.

        Audio is known by its hash: where its item now has another file name, it is copied to it,
        and a kill in the middle of that loses none. Files of no item are left alone. Raises OSError
        where the disk does not take the copies.
        """
        hashes = self._hash_files(items)
        of_request: dict[tuple[str, str], list[Entry]] = {}
        for entry in self._lines:
            of_request.setdefault((entry.text, entry.settings), []).append(entry)
        usable = {
            item.file: [one for one in of_request.get(item.request_key, ()) if one.serves(item)]
            for item in items
        }
        kept: dict[str, Entry] = {}
        for item in items:
            for entry in usable[item.file]:
                if hashes.get(item.file) == entry.audio:
                    kept[item.file] = _renamed(entry, item)
        # By hash: the files whose audio no item has yet.
        unclaimed: dict[str, list[str]] = {}
        for file, audio in hashes.items():
            if file not in kept:
                unclaimed.setdefault(audio, []).append(file)
        moved: dict[str, tuple[str, Entry]] = {}
        for item in items:
            sources = (one for one in usable[item.file] if unclaimed.get(one.audio))
            if item.file not in kept and (source := next(sources, None)) is not None:
                moved[item.file] = unclaimed[source.audio].pop(), _renamed(source, item)
        self._move(moved)
        for partial in self._path.glob(f"*{_PARTIAL_SUFFIX}"):
            partial.unlink()
        return kept | {file: entry for file, (_, entry) in moved.items()}

    def _hash_files(self, items: Sequence[Item]) -> dict[str, str]:
        """Return the hash of every file that the manifest or an item names, or a kill left."""
        names = {item.file for item in items} | {entry.file for entry in self._lines}
        names |= {path.name for path in self._path.glob(f"*{_PARTIAL_SUFFIX}")}
        hashes = {}
        for name in sorted(names):
            with contextlib.suppress(OSError):
                hashes[name] = sha256(self.read(name))
        return hashes

    def _move(self, moved: Mapping[str, tuple[str, Entry]]) -> None:
        """Copy audio to other files; every copy is on the disk before any file changes."""
        for file, (source, _) in moved.items():
            if source != _partial(file):
                self._write_partial(file, self.read(source))
        for _, entry in moved.values():
            self._finish(entry)

    def write(self, entry: Entry, audio: bytes) -> None:
        """Write a file, then its line of the manifest; both are on the disk on return.

        Raises OSError where the disk does not take them.
        """
        self._write_partial(entry.file, audio)
        self._finish(entry)

    def read(self, file: str) -> bytes:
        """Return the bytes of a finished file."""
        return (self._path / file).read_bytes()

    def _write_partial(self, file: str, audio: bytes) -> None:
        with open(self._path / _partial(file), "wb") as partial:
            partial.write(audio)
            partial.flush()
            os.fsync(partial.fileno())

    def _finish(self, entry: Entry) -> None:
        replace_durably(self._path / _partial(entry.file), self._path / entry.file)
        line = json.dumps(asdict(entry), ensure_ascii=False).encode("utf-8") + b"\n"
        written = os.write(self._fd, line)
        if written != len(line):
            raise OSError(f"only {written} of {len(line)} bytes of a manifest line were written")
        os.fsync(self._fd)
        self._lines.append(entry)

    def _load(self) -> None:
        """Read the manifest; a line that a kill cut short is removed, others are left alone."""
        data = (self._path / MANIFEST_NAME).read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.ftruncate(self._fd, len(whole))
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):
                self._lines.append(Entry.parse(line))


def _partial(file: str) -> str:
    return f"{file}{_PARTIAL_SUFFIX}"


def _renamed(entry: Entry, item: Item) -> Entry:
    return replace(entry, file=item.file, line=item.line)


def replace_durably(partial: Path, final: Path) -> None:
    """Rename a file that is on the disk, and wait until its new name is there, too."""
    os.replace(partial, final)
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
