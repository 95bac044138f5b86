"""The output folder: what is finished is known again, whatever moment a kill came at."""

from pathlib import Path

import pytest

from csm_trio.audio.formats import AudioFormat
from csm_trio.batch.item import BadInput, Item, sha256
from csm_trio.batch.manifest import MANIFEST_NAME, Entry, OutputFolder

PCM = AudioFormat.parse("pcm_24000")


def items_of(*texts: str) -> list[Item]:
    return [
        Item(index, index, text, "default", PCM, f"{index}.pcm")
        for index, text in enumerate(texts, start=1)
    ]


def entry_of(item: Item, audio: bytes) -> Entry:
    return Entry(
        item.file, item.line, item.text_hash, item.settings_hash, sha256(audio), 1.0, 1.0, 1.0
    )


def finish(path: Path, *items: Item) -> None:
    """Write each item's text as its audio."""
    with OutputFolder(path) as folder:
        for item in items:
            folder.write(entry_of(item, item.text.encode()), item.text.encode())


def kept(path: Path, items: list[Item]) -> list[str]:
    with OutputFolder(path) as folder:
        return sorted(folder.keep(items))


def test_finished_items_are_kept_and_changed_ones_are_not(tmp_path: Path) -> None:
    finish(tmp_path, *items_of("a", "b", "c"))
    assert kept(tmp_path, items_of("a", "B", "c")) == ["1.pcm", "3.pcm"]


def test_a_file_that_was_changed_or_lost_is_not_kept(tmp_path: Path) -> None:
    items = items_of("a", "b", "c")
    finish(tmp_path, *items)
    (tmp_path / "1.pcm").write_bytes(b"x")
    (tmp_path / "3.pcm").unlink()
    assert kept(tmp_path, items) == ["2.pcm"]


def test_a_line_put_first_moves_the_audio_of_the_others(tmp_path: Path) -> None:
    finish(tmp_path, *items_of("a", "b", "c"))
    shifted = items_of("new", "a", "b", "c")
    assert kept(tmp_path, shifted) == ["2.pcm", "3.pcm", "4.pcm"]
    assert [(tmp_path / f"{n}.pcm").read_bytes() for n in (2, 3, 4)] == [b"a", b"b", b"c"]
    assert kept(tmp_path, shifted) == ["2.pcm", "3.pcm", "4.pcm"]


@pytest.mark.parametrize("renamed", range(4))
def test_a_kill_among_the_moves_loses_no_audio(
    renamed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(tmp_path, *items_of("a", "b", "c"))
    shifted = items_of("new", "a", "b", "c")
    real_finish, left = OutputFolder._finish, [renamed]

    def finish_until_killed(folder: OutputFolder, entry: Entry) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real_finish(folder, entry)

    monkeypatch.setattr(OutputFolder, "_finish", finish_until_killed)
    if renamed < 3:
        with pytest.raises(KeyboardInterrupt):
            kept(tmp_path, shifted)
    monkeypatch.setattr(OutputFolder, "_finish", real_finish)
    assert kept(tmp_path, shifted) == ["2.pcm", "3.pcm", "4.pcm"]
    assert [(tmp_path / f"{n}.pcm").read_bytes() for n in (2, 3, 4)] == [b"a", b"b", b"c"]


def test_equal_lines_keep_a_file_each(tmp_path: Path) -> None:
    finish(tmp_path, *items_of("a", "a"))
    assert kept(tmp_path, items_of("a", "a", "a")) == ["1.pcm", "2.pcm"]


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_manifest_line_cut_short_is_dropped_and_the_next_one_is_whole(
    cut: int, tmp_path: Path
) -> None:
    items = items_of("a", "b")
    finish(tmp_path, *items)
    manifest = tmp_path / MANIFEST_NAME
    manifest.write_bytes(manifest.read_bytes()[:-cut])
    assert kept(tmp_path, items) == ["1.pcm"]
    finish(tmp_path, items[1])
    assert kept(tmp_path, items) == ["1.pcm", "2.pcm"]


@pytest.mark.parametrize("line", ["{}", "[]", "null", "\xff", '{"file": 1}'])
def test_a_foreign_line_of_the_manifest_is_left_alone(line: str, tmp_path: Path) -> None:
    items = items_of("a")
    (tmp_path / MANIFEST_NAME).write_bytes(f"{line}\n".encode("latin-1"))
    finish(tmp_path, *items)
    assert kept(tmp_path, items) == ["1.pcm"]


def test_what_a_kill_left_half_written_is_removed(tmp_path: Path) -> None:
    (tmp_path / "1.pcm.partial").write_bytes(b"half")
    assert kept(tmp_path, items_of("a")) == []
    assert not list(tmp_path.glob("*.partial"))


def test_one_folder_takes_one_batch_at_a_time(tmp_path: Path) -> None:
    with OutputFolder(tmp_path), pytest.raises(BadInput, match="Another batch"):
        OutputFolder(tmp_path)
    with OutputFolder(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadInput, match="Cannot write to"):
        OutputFolder(tmp_path / "file")
