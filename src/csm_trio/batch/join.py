"""Join finished audio into one file: WAV, or MP3 and M4B with chapters.

Audio without times stands one after the other with pauses; a subtitle's starts at its time, also
over the end of one that is too long. The same parts give the same bytes.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from csm_trio.audio.decode import decode
from csm_trio.audio.formats import AudioFormat
from csm_trio.audio.pcm import to_float, to_int16
from csm_trio.audio.resample import Resampler
from csm_trio.audio.wav import wav_header
from csm_trio.batch.item import BadInput
from csm_trio.batch.manifest import replace_durably
from csm_trio.timebase import SAMPLE_RATE_HZ

JOIN_SUFFIXES = (".wav", ".mp3", ".m4b", ".m4a")

_BLOCK_SAMPLES = SAMPLE_RATE_HZ
_MAX_TITLE_CHARS = 80


@dataclass(frozen=True, slots=True)
class Part:
    """One finished file: its start in the whole, its duration, and the chapter it begins.

    `title` None goes on with the chapter before.
    """

    file: str
    audio_format: AudioFormat
    start_s: float
    audio_s: float
    title: str | None = None


@dataclass(frozen=True, slots=True)
class _Encoding:
    """FFmpeg's names of a container and codec."""

    muxer: str
    encoder: str
    sample_format: str
    bitrate_bps: int


_AAC = _Encoding("ipod", "aac", "fltp", 64_000)
_ENCODINGS = {
    ".mp3": _Encoding("mp3", "libmp3lame", "s16p", 96_000),
    ".m4b": _AAC,
    ".m4a": _AAC,
}


def join(parts: Sequence[Part], read: Callable[[str], bytes], path: Path) -> float:
    """Write the parts into one file, whole or not at all; return its duration in seconds.

    `read` returns the bytes of a part's file. Blocks on disk and codecs. Raises `BadInput` where
    the file cannot be written or a part cannot be read.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        pcm = _mixed(parts, read)
        if path.suffix.lower() == ".wav":
            n_samples = _write_wav(partial, pcm)
        else:
            encoding = _ENCODINGS[path.suffix.lower()]
            n_samples = _write_encoded(partial, pcm, encoding, chapters(parts))
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        replace_durably(partial, path)
    except (OSError, ValueError) as error:
        partial.unlink(missing_ok=True)
        raise BadInput(f"Cannot write {path}: {error}.") from None
    return n_samples / SAMPLE_RATE_HZ


def chapters(parts: Sequence[Part]) -> list[dict[str, object]]:
    """Return FFmpeg's chapters, in milliseconds, where the parts begin them."""
    begins = [part for index, part in enumerate(parts) if not index or part.title is not None]
    starts_ms = [round(part.start_s * 1000) for part in begins]
    ends_ms = [*starts_ms[1:], round(max(part.start_s + part.audio_s for part in parts) * 1000)]
    return [
        {
            "id": index,
            "start": start_ms if index else 0,
            "end": end_ms,
            "time_base": Fraction(1, 1000),
            "metadata": {"title": (part.title or "")[:_MAX_TITLE_CHARS]},
        }
        for index, (part, start_ms, end_ms) in enumerate(
            zip(begins, starts_ms, ends_ms, strict=True)
        )
    ]


def _mixed(parts: Sequence[Part], read: Callable[[str], bytes]) -> Iterator[NDArray[np.int16]]:
    """Yield the whole at 24 kHz in blocks; parts that overlap are added."""
    waiting = np.zeros(0, dtype=np.int32)
    at = 0
    for part in parts:
        start = round(part.start_s * SAMPLE_RATE_HZ)
        while at < start:
            n_samples = min(start - at, _BLOCK_SAMPLES)
            block, waiting = waiting[:n_samples], waiting[n_samples:]
            yield to_int16(np.pad(block, (0, n_samples - len(block))).astype(np.float64))
            at += n_samples
        pcm = _at_24_khz(read(part.file), part.audio_format)
        longest = max(len(waiting), len(pcm))
        waiting = np.pad(waiting, (0, longest - len(waiting)))
        waiting[: len(pcm)] += pcm
    for first in range(0, len(waiting), _BLOCK_SAMPLES):
        yield to_int16(waiting[first : first + _BLOCK_SAMPLES].astype(np.float64))


def _at_24_khz(audio: bytes, audio_format: AudioFormat) -> NDArray[np.int16]:
    pcm, rate_hz = decode(audio, audio_format)
    resampler = Resampler(rate_hz, SAMPLE_RATE_HZ)
    return np.concatenate([resampler.feed(pcm), resampler.finish()])


def _write_wav(path: Path, blocks: Iterator[NDArray[np.int16]]) -> int:
    n_samples = 0
    with open(path, "wb") as file:
        file.write(wav_header(SAMPLE_RATE_HZ, data_bytes=0))
        for block in blocks:
            file.write(block.astype("<i2").tobytes())
            n_samples += len(block)
        file.seek(0)
        file.write(wav_header(SAMPLE_RATE_HZ, data_bytes=2 * n_samples))
    return n_samples


def _write_encoded(
    path: Path,
    blocks: Iterator[NDArray[np.int16]],
    encoding: _Encoding,
    chapters_of_file: list[dict[str, object]],
) -> int:
    n_samples = 0
    # bitexact omits version names and the time of day.
    options = {"fflags": "bitexact"}
    with av.open(str(path), "w", format=encoding.muxer, options=options) as container:
        stream = container.add_stream(encoding.encoder, rate=SAMPLE_RATE_HZ, layout="mono")
        assert isinstance(stream, AudioStream)
        stream.codec_context.format = av.AudioFormat(encoding.sample_format)
        stream.codec_context.bit_rate = encoding.bitrate_bps
        container.set_chapters(chapters_of_file)  # type: ignore[arg-type]
        for block in blocks:
            samples = to_float(block) if encoding.sample_format == "fltp" else block
            frame = av.AudioFrame.from_ndarray(
                samples[np.newaxis], format=encoding.sample_format, layout="mono"
            )
            frame.sample_rate = SAMPLE_RATE_HZ
            frame.time_base = Fraction(1, SAMPLE_RATE_HZ)
            frame.pts = n_samples
            n_samples += len(block)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return n_samples
