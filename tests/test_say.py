"""`csm-trio say`: its files, its progress, its exit codes."""

import io
import os
import signal
import wave
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import trio
from trio_websocket import WebSocketRequest

from csm_trio.audio.formats import AudioFormat
from csm_trio.audio.wav import read_wav, wav_header
from csm_trio.client import SpeechTarget
from csm_trio.errors import Unauthorized
from csm_trio.protocol.elevenlabs.errors import socket_error
from csm_trio.say import SayOptions, say
from support.scripted_server import FINAL, all_text, close_code, next_text, scripted_server, spoken

SAMPLES = np.arange(-12_000, 12_000, dtype="<i2")
WAV = wav_header(24_000, data_bytes=None) + SAMPLES.tobytes()


def speaker(*chunks: bytes, final: str = FINAL) -> "Synthesizer":
    return Synthesizer(chunks, final)


class Synthesizer:
    """A server that hears all the text, says its chunks and ends with one frame."""

    def __init__(self, chunks: tuple[bytes, ...], final: str) -> None:
        self._frames = [*(spoken(chunk) for chunk in chunks), final]
        self.received: list[str] = []

    async def __call__(self, request: WebSocketRequest) -> None:
        socket = await request.accept()
        self.received += await all_text(socket)
        for frame in self._frames:
            await socket.send_message(frame)
        await close_code(socket)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@asynccontextmanager
async def options(
    script: Synthesizer,
    *,
    out: Path | None,
    format_name: str = "pcm_24000",
    text: str | None = "Hi.",
) -> AsyncIterator[SayOptions]:
    async with scripted_server(script) as url:
        target = SpeechTarget(url, audio_format=AudioFormat.parse(format_name))
        yield SayOptions(target, text, out)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read_fd, write_fd = os.pipe()
    yield read_fd, write_fd
    for fd in (read_fd, write_fd):
        try:
            os.close(fd)
        except OSError:
            continue  # the test closed it


async def test_the_audio_of_the_text_is_written_to_the_file(tmp_path: Path) -> None:
    script, out, stderr = speaker(b"ab", b"cd"), tmp_path / "speech.pcm", io.StringIO()
    async with options(script, out=out, text="Hello there.") as asked:
        assert await say(asked, stderr=stderr) == 0
    assert script.received == ["Hello there."]
    assert out.read_bytes() == b"abcd"
    (summary,) = stderr.getvalue().splitlines()
    assert summary.startswith("first audio ")
    assert summary.endswith(" | 2 chunks")


async def test_standard_input_is_synthesized_while_it_is_still_being_written(
    tmp_path: Path, pipe: tuple[int, int]
) -> None:
    read_fd, write_fd = pipe
    received: list[str] = []

    async def script(request: WebSocketRequest) -> None:
        socket = await request.accept()
        os.write(write_fd, "Erste Zeile.\nZweite für".encode()[:-1])
        received.append(await next_text(socket))
        await socket.send_message(spoken(b"ab"))
        os.write(write_fd, b"r immer.\n")
        received.append(await next_text(socket))
        os.close(write_fd)
        assert await next_text(socket) == ""
        await socket.send_message(spoken(b"cd"))
        await socket.send_message(FINAL)

    async with scripted_server(script) as url:
        asked = SayOptions(SpeechTarget(url), None, tmp_path / "speech.pcm")
        assert await say(asked, stdin_fd=read_fd, stderr=io.StringIO()) == 0
    assert received == ["Erste Zeile.\nZweite fü", "r immer.\n"]
    assert (tmp_path / "speech.pcm").read_bytes() == b"abcd"


async def test_a_character_cut_between_two_reads_stays_whole(
    tmp_path: Path, pipe: tuple[int, int]
) -> None:
    read_fd, write_fd = pipe
    first, second = "für"[:1].encode() + "ü".encode()[:1], "ü".encode()[1:] + b"r"
    received: list[str] = []

    async def script(request: WebSocketRequest) -> None:
        socket = await request.accept()
        os.write(write_fd, first)
        received.append(await next_text(socket))
        os.write(write_fd, second)
        os.close(write_fd)
        received.extend(await all_text(socket))
        await socket.send_message(FINAL)

    async with scripted_server(script) as url:
        asked = SayOptions(SpeechTarget(url), None, tmp_path / "speech.pcm")
        assert await say(asked, stdin_fd=read_fd, stderr=io.StringIO()) == 0
    assert received == ["f", "ür"]
    assert not (tmp_path / "speech.pcm").exists(), "no audio, no file"


async def test_unreadable_standard_input_is_reported_in_one_sentence(tmp_path: Path) -> None:
    directory_fd, stderr = os.open(tmp_path, os.O_RDONLY), io.StringIO()
    async with options(speaker(), out=tmp_path / "speech.pcm", text=None) as asked:
        assert await say(asked, stdin_fd=directory_fd, stderr=stderr) == 1
    os.close(directory_fd)
    assert stderr.getvalue() == "csm-trio say: Cannot read standard input: Is a directory.\n"


@pytest.mark.parametrize("cuts", [(44,), (1, 43, 45), (1000, 1001), ()])
async def test_a_wav_file_ends_with_its_true_lengths(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    edges = [0, *cuts, len(WAV)]
    chunks = [WAV[a:b] for a, b in pairwise(edges)]
    out = tmp_path / "speech.wav"
    async with options(speaker(*chunks), out=out, format_name="wav_24000") as asked:
        assert await say(asked, stderr=io.StringIO()) == 0
    with wave.open(str(out)) as file:
        assert (file.getnframes(), file.getframerate()) == (24_000, 24_000)
    assert np.array_equal(read_wav(out.read_bytes())[0], SAMPLES)


async def test_a_wav_that_broke_off_is_still_a_wav_file(tmp_path: Path) -> None:
    out, stderr = tmp_path / "speech.wav", io.StringIO()
    script = speaker(WAV[:2044], final=socket_error(Unauthorized()).to_text())
    async with options(script, out=out, format_name="wav_24000") as asked:
        assert await say(asked, stderr=stderr) == 1
    with wave.open(str(out)) as file:
        assert file.getnframes() == 1000
    assert stderr.getvalue() == "csm-trio say: Invalid API key\n"


async def test_standard_output_gets_the_stream_unchanged(pipe: tuple[int, int]) -> None:
    read_fd, write_fd = pipe
    async with options(speaker(WAV[:100], WAV[100:4000]), out=None) as asked:
        assert await say(asked, stdout_fd=write_fd, stderr=io.StringIO()) == 0
    assert os.read(read_fd, 8000) == WAV[:4000]


async def test_a_closed_standard_output_is_reported_in_one_sentence(pipe: tuple[int, int]) -> None:
    read_fd, write_fd = pipe
    os.close(read_fd)
    stderr = io.StringIO()
    async with options(speaker(b"ab"), out=None) as asked:
        assert await say(asked, stdout_fd=write_fd, stderr=stderr) == 1
    assert stderr.getvalue() == "csm-trio say: Cannot write standard output: Broken pipe.\n"


async def test_a_failed_call_does_not_change_an_existing_file(tmp_path: Path) -> None:
    out, stderr = tmp_path / "speech.pcm", io.StringIO()
    out.write_bytes(b"earlier")
    script = speaker(final=socket_error(Unauthorized()).to_text())
    async with options(script, out=out) as asked:
        assert await say(asked, stderr=stderr) == 1
    assert out.read_bytes() == b"earlier"


async def test_a_file_that_cannot_be_created_is_reported_in_one_sentence(tmp_path: Path) -> None:
    out, stderr = tmp_path / "nowhere" / "speech.pcm", io.StringIO()
    async with options(speaker(b"ab"), out=out) as asked:
        assert await say(asked, stderr=stderr) == 1
    assert stderr.getvalue() == f"csm-trio say: Cannot write {out}: No such file or directory.\n"


async def interrupted(
    script_after_text: "Speech", *, out: Path | None, stdin_fd: int = 0, stdout_fd: int = 1
) -> tuple[int, int, str]:
    """Say on a socket that never ends, press Ctrl-C; return exit code, close code, message."""
    speaking, codes, stderr = trio.Event(), [], io.StringIO()

    async def script(request: WebSocketRequest) -> None:
        socket = await request.accept()
        await next_text(socket)
        for chunk in script_after_text:
            await socket.send_message(spoken(chunk))
        speaking.set()
        codes.append(await close_code(socket))

    async def press_ctrl_c() -> None:
        await speaking.wait()
        signal.raise_signal(signal.SIGINT)

    async with scripted_server(script) as url, trio.open_nursery() as nursery:
        nursery.start_soon(press_ctrl_c)
        asked = SayOptions(SpeechTarget(url), None, out)
        exit_code = await say(asked, stdin_fd=stdin_fd, stdout_fd=stdout_fd, stderr=stderr)
    return exit_code, codes[0], stderr.getvalue()


Speech = list[bytes]


async def test_ctrl_c_closes_the_socket_while_standard_input_is_open(
    tmp_path: Path, pipe: tuple[int, int]
) -> None:
    read_fd, write_fd = pipe
    os.write(write_fd, b"Hello.\n")
    ended = await interrupted([b"ab"], out=tmp_path / "speech.pcm", stdin_fd=read_fd)
    assert ended == (130, 1000, "csm-trio say: interrupted\n")


async def test_ctrl_c_ends_say_while_standard_output_is_blocked(pipe: tuple[int, int]) -> None:
    text_fd, written_fd = os.pipe()
    os.write(written_fd, b"Hello.\n")
    _, stdout_fd = pipe  # never read, and shorter than the speech
    ended = await interrupted([bytes(1 << 18)], out=None, stdin_fd=text_fd, stdout_fd=stdout_fd)
    os.close(written_fd)
    assert ended == (130, 1000, "csm-trio say: interrupted\n")


async def test_a_terminal_shows_one_line_that_is_updated(tmp_path: Path) -> None:
    stderr = Terminal()
    async with options(speaker(bytes(48_000), bytes(24_000)), out=tmp_path / "a.pcm") as asked:
        await say(asked, stderr=stderr)
    progress, _, summary = stderr.getvalue().partition("\r\x1b[K")
    assert progress == "\r1.0 s of audio\r1.5 s of audio"
    assert summary.startswith("first audio ")


async def test_a_log_gets_a_progress_line_at_intervals(tmp_path: Path) -> None:
    stderr, second = io.StringIO(), bytes(48_000)
    async with options(speaker(*[second] * 11), out=tmp_path / "a.pcm") as asked:
        await say(asked, stderr=stderr)
    assert stderr.getvalue().splitlines()[:-1] == ["5.0 s of audio", "10.0 s of audio"]
