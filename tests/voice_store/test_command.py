"""`csm-trio voices`: its actions on files, and the process that encodes clips for real."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import trio

from csm_trio.audio.wav import wav_header
from csm_trio.cli import main
from csm_trio.config import EngineConfig
from csm_trio.engine.load import load_runner
from csm_trio.engine.utterance import Frame, Sampling, Utterance
from csm_trio.voice_store import command
from csm_trio.voice_store.encoded_voice import (
    ClipSource,
    EncodedVoice,
    EncodingRequest,
    VoiceSource,
)
from csm_trio.voice_store.encoder_process import encode_voices
from support.voice_clips import BAD, FakeEncoder, write_clip

TEXT = "Please call me back tomorrow morning, when the office is open again."


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> FakeEncoder:
    double = FakeEncoder()
    monkeypatch.setattr(command, "encode_voices", double)
    return double


class Voices:
    """Runs `csm-trio voices` with a data directory."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._data_dir = str(folder / "data")
        self._capsys = capsys
        self.error = ""

    def __call__(self, *arguments: str, status: int = 0) -> list[str]:
        """Return the lines of standard output."""
        assert main(["voices", *arguments, "--data-dir", self._data_dir]) == status
        shown = self._capsys.readouterr()
        self.error = shown.err
        return shown.out.splitlines()


@pytest.fixture
def voices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Voices:
    return Voices(tmp_path, capsys)


@pytest.mark.usefixtures("encoder")
def test_a_voice_is_added_listed_checked_and_removed(voices: Voices, tmp_path: Path) -> None:
    clip = str(write_clip(tmp_path, "vera.mp3"))
    (tmp_path / "words").write_text("From a file.\n")
    words = f"@{tmp_path / 'words'}"
    assert voices(
        *("add", "Vera Ó. two", clip, clip, "--text", TEXT, "--text", words),
        *("--label", "accent=none", "--speaker-id", "7", "--description", "Calm."),
    ) == ["Vera_two"]
    assert voices("list")[-1] == "Vera_two\tspeaker 7\tVera Ó. two"
    assert voices()[-1] == voices("list")[-1], "the list is the default"
    assert voices("check")[-1].startswith("Vera_two\t2 clips, ")
    assert voices("remove", "Vera_two") == []
    assert len(voices("list")) == 5
    voices("remove", "Vera_two", status=1)
    assert "has no voice 'Vera_two'" in voices.error


@pytest.mark.usefixtures("encoder")
def test_flags_may_stand_before_the_action(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "voices.json"
    file.write_text('{"anna": 4}')
    for arguments in (["--voices-file", str(file), "list"], ["list", "--voices-file", str(file)]):
        assert main(["voices", *arguments]) == 0
        assert capsys.readouterr().out == "anna\tspeaker 4\tanna\n"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["vera.mp3", "gone.mp3", "--text", "a", "--text", "b"], "gone.mp3 cannot be read"),
        (["vera.mp3", "--text", "a", "--text", "b"], "1 clips and 2 times --text"),
        (["bad.mp3", "--text", "a"], "no audio"),
        (["vera.mp3", "--text", "@gone"], "gone cannot be read"),
        (["vera.mp3", "--text", "a", "--label", "x"], "--label is NAME=TEXT"),
        (["vera.mp3", "--text", "a", "--speaker-id", "-1"], "--speaker-id -1"),
        (["/dev/zero", "--text", "a"], "no regular file"),
    ],
)
@pytest.mark.usefixtures("encoder")
def test_a_refused_voice_is_one_line(
    voices: Voices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: Sequence[str], problem: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path, "vera.mp3")
    write_clip(tmp_path, "bad.mp3", BAD)
    voices("add", "Vera", *arguments, status=1)
    assert problem in voices.error
    assert len(voices.error.splitlines()) == 1
    assert len(voices("list")) == 5


@pytest.mark.usefixtures("encoder")
def test_an_id_is_given_once(voices: Voices, tmp_path: Path) -> None:
    clip = str(write_clip(tmp_path, "vera.mp3"))
    voices("add", "Vera", clip, "--text", TEXT)
    for name in ("Vera", "default"):
        voices("add", name, clip, "--text", TEXT, status=1)
        assert f"There is a voice of the id {name!r} already" in voices.error


def test_added_voices_need_a_data_directory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["voices", "remove", "vera"]) == 1
    assert "--data-dir" in capsys.readouterr().err


@pytest.mark.usefixtures("encoder")
def test_a_check_fails_for_a_voice_that_cannot_be_used(voices: Voices, tmp_path: Path) -> None:
    write_clip(tmp_path, "bad.wav", BAD)
    file = tmp_path / "voices.json"
    file.write_text('{"a": 1, "b": {"speaker_id": 2, "clips": [{"file": "bad.wav", "text": "x"}]}}')
    assert voices("check", "--voices-file", str(file), status=1) == [
        "a\t0 clips, 0.0 s",
        "b\tunusable: The file is no audio.",
    ]
    broken = tmp_path / "data" / "voices" / "zoe"
    broken.mkdir()
    (broken / "voice.json").write_text("{")
    voices("check", status=1)
    assert "not valid JSON" in voices.error


def speech_of(speaker_id: int, text: str) -> bytes:
    """Return a WAV file of the embedded voice."""
    runner = load_runner(EngineConfig(device="cpu", pool_size=1))
    runner.open([(0, Utterance(text, speaker_id, 120, Sampling(seed=3)))])
    runner.prefill_all()
    pcm = []
    while isinstance(frame := runner.step([0])[0], Frame):
        pcm.append(frame.pcm)
    data = np.concatenate(pcm).astype("<i2").tobytes()
    return wav_header(24_000, data_bytes=len(data)) + data


async def test_the_process_prepares_encodes_and_finds_the_speaker_of_a_clip(
    tmp_path: Path,
) -> None:
    """Speakers of the embedded voice follow their ids, so a clip must be given the right one."""
    clip = ClipSource(write_clip(tmp_path, "two.wav", speech_of(2, TEXT)), TEXT)
    text = ClipSource(write_clip(tmp_path, "text.wav", b"<html>no sound</html>"), TEXT)
    long = VoiceSource((0,), (clip, clip))
    voices = [VoiceSource((0, 1, 2, 3), (clip,)), VoiceSource((5,), (text,)), long]
    with trio.fail_after(120):
        found, problem, too_long, plain = await encode_voices(
            EncodingRequest(EngineConfig(max_positions=256), (*voices, VoiceSource((4,), ())))
        )
    assert isinstance(found, EncodedVoice)
    assert found.speaker_id == 2
    (made,) = found.clips
    assert made.text == TEXT
    assert made.codes.shape == (-(-len(made.pcm) // 1_920), 8)
    assert isinstance(problem, str)
    assert isinstance(too_long, str)
    assert "positions of the model's memory" in too_long
    assert plain == EncodedVoice(4, ())
