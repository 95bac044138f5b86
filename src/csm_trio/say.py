"""`csm-trio say`: synthesize text from the command line or standard input into a file or pipe.

Uses `client` and knows no socket; standard error gets the progress and the timing.
"""

import argparse
import codecs
import contextlib
import os
import signal
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import trio

from csm_trio.audio.formats import FORMATS, AudioFormat
from csm_trio.audio.wav import HEADER_BYTES, wav_header
from csm_trio.client import DEFAULT_FORMAT, Arrivals, Call, Deltas, SpeechTarget
from csm_trio.client_flags import EXIT_FAILED, EXIT_INTERRUPTED, add_server_flags
from csm_trio.errors import SpeechError

_READ_BYTES = 4096
_PLAIN_PROGRESS_S = 5.0

_FORMAT_OF_SUFFIX = {
    ".wav": "wav_24000",
    ".mp3": "mp3_44100_128",
    ".opus": "opus_48000_64",
    ".m4a": "m4a_aac_44100_128",
    ".ulaw": "ulaw_8000",
    ".alaw": "alaw_8000",
}
_SETTINGS = ("speaker_id", "temperature", "top_k", "seed", "max_audio_len_ms")
_STANDARD = "-"


@dataclass(frozen=True, slots=True)
class SayOptions:
    """The options of `say`; `text` None is standard input, `out` None is standard output."""

    target: SpeechTarget = field(default_factory=SpeechTarget)
    text: str | None = None
    out: Path | None = None


def add_say_flags(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """Add the text and flags of `say`; `CSM_API_KEY` of `environ` is the key's default."""
    add = parser.add_argument
    add(
        "text",
        nargs="?",
        type=_nonblank_text,
        help="text to synthesize (default: standard input, synthesized as it arrives)",
    )
    add_server_flags(add, environ)
    add(
        "--format",
        choices=FORMATS,
        metavar="FORMAT",
        help=f"one of {', '.join(FORMATS)} (unit: output_format; default: by the ending of --out, "
        f"{', '.join(_FORMAT_OF_SUFFIX)}, else {DEFAULT_FORMAT})",
    )
    add(
        "--out",
        metavar="FILE",
        help="audio file to write, - is standard output (unit: path; default: speech.CODEC here)",
    )
    model_default = "default: the server's"
    add("--speaker-id", type=int, metavar="N", help=f"speaker (unit: number; {model_default})")
    add("--temperature", type=float, metavar="T", help=f"0 is greedy (unit: none; {model_default})")
    add("--top-k", type=int, metavar="K", help=f"1 is greedy (unit: candidates; {model_default})")
    add(
        "--seed",
        type=int,
        metavar="N",
        help="seed of the sampling: makes speech repeatable (unit: number; default: none)",
    )
    add(
        "--max-audio-len-ms",
        type=int,
        metavar="N",
        help=f"max audio of one generation (unit: ms; {model_default})",
    )


def read_say_options(flags: argparse.Namespace) -> SayOptions:
    """Return the options in the parsed `flags` of `add_say_flags`."""
    suffix = Path(flags.out or "").suffix.lower()
    by_suffix = _FORMAT_OF_SUFFIX.get(suffix, DEFAULT_FORMAT)
    audio_format = AudioFormat.parse(flags.format or by_suffix)
    all_settings = ((name, getattr(flags, name)) for name in _SETTINGS)
    settings = {name: value for name, value in all_settings if value is not None}
    out = Path(flags.out or f"speech.{audio_format.codec}")
    return SayOptions(
        target=SpeechTarget(flags.url, flags.voice, audio_format, settings, flags.api_key),
        text=flags.text,
        out=None if flags.out == _STANDARD else out,
    )


async def say(
    options: SayOptions,
    *,
    stdin_fd: int = 0,
    stdout_fd: int = 1,
    stderr: TextIO | None = None,
) -> int:
    """Synthesize the text; return the exit code: 0, 1 with an error on `stderr`, 130 after Ctrl-C.

    Must run in the main thread, where signals arrive.
    """
    stderr = sys.stderr if stderr is None else stderr
    call = Call(options.target)
    sink = _Sink(options.out, stdout_fd)
    progress = _Progress(stderr, call.arrivals)

    async def listen(chunk: bytes) -> None:
        await sink.write(chunk)
        progress.show()

    deltas = _read_deltas(stdin_fd) if options.text is None else _once(options.text)
    async with trio.open_nursery() as nursery:
        await nursery.start(_stop_on_interrupt, call)
        try:
            timing = await call.speak(deltas, listen)
        except SpeechError as error:
            outcome, exit_code = f"csm-trio say: {error.message}", EXIT_FAILED
        else:
            outcome, exit_code = str(timing), 0
            if call.hung_up:
                outcome, exit_code = "csm-trio say: interrupted", EXIT_INTERRUPTED
        finally:
            sink.close()
            progress.clear()
        nursery.cancel_scope.cancel()
    print(outcome, file=stderr)
    return exit_code


async def _stop_on_interrupt(call: Call, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGINT) as interrupts:
        task_status.started()
        async for _ in interrupts:
            call.hang_up()


async def _once(text: str) -> Deltas:
    yield text


async def _read_deltas(fd: int) -> Deltas:
    """Yield the text of `fd` in deltas as it arrives; raises `SpeechError` if it cannot be read."""
    # Reads in a thread: a file cannot be made non-blocking, and a terminal is shared with a shell.
    # A cancel abandons the thread, which ends with the process.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    try:
        while data := await trio.to_thread.run_sync(
            os.read, fd, _READ_BYTES, abandon_on_cancel=True
        ):
            yield decoder.decode(data)
    except OSError as error:
        raise SpeechError(f"Cannot read standard input: {error.strerror}.") from None
    yield decoder.decode(b"", final=True)


class _Sink:
    """The output: a file, created at the first chunk, or standard output."""

    # Writes raw descriptors in a thread: a player may read slowly, and an abandoned thread must
    # hold no lock that the interpreter waits for at exit.

    def __init__(self, path: Path | None, stdout_fd: int) -> None:
        self._path = path
        self._fd = stdout_fd if path is None else None
        self._head = b""
        self._n_bytes = 0

    async def write(self, chunk: bytes) -> None:
        """Write all of `chunk`; raises `SpeechError` if it cannot be written."""
        try:
            await trio.to_thread.run_sync(
                self._write_all, chunk, abandon_on_cancel=self._path is None
            )
        except OSError as error:
            name = self._path or "standard output"
            raise SpeechError(f"Cannot write {name}: {error.strerror}.") from None
        self._head += chunk[: HEADER_BYTES - len(self._head)]
        self._n_bytes += len(chunk)

    def _write_all(self, chunk: bytes) -> None:
        if self._fd is None:
            assert self._path is not None
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def close(self) -> None:
        """Close the file; a WAV on disk gets its true lengths, also after an interrupt."""
        if self._path is None or self._fd is None:
            return
        try:
            if stat.S_ISREG(os.fstat(self._fd).st_mode) and self._head.startswith(b"RIFF"):
                self._patch_lengths(self._fd)
        finally:
            os.close(self._fd)
            self._fd = None

    def _patch_lengths(self, fd: int) -> None:
        sample_rate_hz = int.from_bytes(self._head[24:28], "little")
        with contextlib.suppress(
            ValueError
        ):  # longer than a RIFF length can express: keep the header
            header = wav_header(sample_rate_hz, data_bytes=self._n_bytes - HEADER_BYTES)
            os.pwrite(fd, header, 0)


class _Progress:
    """Seconds of audio received: one changing line on a terminal, a line every 5 s elsewhere.

    Shows nothing for formats without a constant byte rate.
    """

    def __init__(self, stderr: TextIO, arrivals: Arrivals) -> None:
        self._stderr = stderr
        self._arrivals = arrivals
        self._on_terminal = stderr.isatty()
        self._next_s = 0.0 if self._on_terminal else _PLAIN_PROGRESS_S

    def show(self) -> None:
        """Show the seconds received so far, if an update is due."""
        audio_s = self._arrivals.audio_s
        if audio_s is None or audio_s < self._next_s:
            return
        if self._on_terminal:
            print(f"\r{audio_s:.1f} s of audio", end="", file=self._stderr, flush=True)
        else:
            print(f"{audio_s:.1f} s of audio", file=self._stderr, flush=True)
            self._next_s = audio_s + _PLAIN_PROGRESS_S

    def clear(self) -> None:
        """Clear the progress line of a terminal."""
        if self._on_terminal:
            print("\r\x1b[K", end="", file=self._stderr)


def _nonblank_text(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the text is blank")
    return text
