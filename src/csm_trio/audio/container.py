"""Audio files of unknown origin: decode the first audio stream, open nothing beside the file.

The module must not know formats of the API, speech or transcripts.
"""

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import av
import numpy as np
import soxr  # type: ignore[import-untyped]
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 384_000
MAX_CHANNELS = 8

# FFmpeg's names. Every other demuxer is refused, above all those that open files or addresses
# named in their input: hls, dash, concat, sdp, image2 and their like.
_DEMUXERS = (
    *("wav", "w64", "aiff", "au", "caf", "voc", "mp3", "aac", "ac3", "flac", "ogg", "amr"),
    *("mov", "matroska", "webm", "asf", "wv", "tta"),
)
_CODECS = (
    *("pcm_u8", "pcm_s8", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le"),
    *("pcm_s32be", "pcm_f32le", "pcm_f32be", "pcm_f64le", "pcm_f64be", "pcm_mulaw", "pcm_alaw"),
    *("adpcm_ms", "adpcm_ima_wav", "adpcm_ima_qt", "mp1float", "mp2float", "mp3float"),
    *("mp1", "mp2", "mp3", "aac", "ac3", "eac3", "alac", "flac", "vorbis", "opus", "speex"),
    *("amrnb", "amrwb", "wmav1", "wmav2", "wmapro", "wmavoice", "wavpack", "tta"),
)
_CONTAINER_OPTIONS = {
    "format_whitelist": ",".join(_DEMUXERS),
    # Streams of other codecs, such as video, are not decoded to guess their parameters.
    "codec_whitelist": ",".join(_CODECS),
    "protocol_whitelist": "none",
}
_INTEGER_SCALES = {"uint8": 1 / 2**7, "int16": 1 / 2**15, "int32": 1 / 2**31}
# A QuickTime header compressed by zlib: FFmpeg would expand it to up to 4 GiB.
_COMPRESSED_HEADER = re.compile(rb"cmov.{4}dcom", re.DOTALL)
_MAX_MAGNITUDE = 1e9  # of a sample; its square and its resampled values stay finite
_MAX_PACKETS = 60_000  # two minutes of the shortest Opus frames, 2.5 ms, are 48,000
_MAX_BAD_PACKETS = 100


class UnreadableAudio(ValueError):
    """The bytes are no audio file that can be decoded; the message is the reason in a sentence."""


@dataclass(frozen=True, slots=True, eq=False)
class DecodedFile:
    """The samples of an audio file: `channels` float32 [samples, channels], full scale is 1.

    source_hz: the file's own sample rate. damaged: some of its packets could not be decoded.
    """

    channels: NDArray[np.float32]
    source_hz: int
    damaged: bool


def open_container(data: bytes) -> InputContainer:
    """Return an open audio file, for use in `with`; raises `av.FFmpegError` where it is none.

    The type is found by content. The file cannot make FFmpeg open another one, or an address.
    """
    return av.open(
        io.BytesIO(data),
        "r",
        container_options=_CONTAINER_OPTIONS,
        metadata_errors="replace",
        io_open=_refuse_other_files,
    )


def decode_file(data: bytes, *, sample_rate_hz: int, max_s: float) -> DecodedFile:
    """Return the best audio stream of a file, resampled to `sample_rate_hz` by soxr's HQ filter.

    What can be decoded of a damaged file counts. Memory is bounded by `max_s` and `MAX_CHANNELS`.
    Raises `UnreadableAudio` for what is no audio file, or lasts longer than `max_s`.
    """
    if _COMPRESSED_HEADER.search(data):
        raise UnreadableAudio("The file has a compressed header, which is not supported.")
    try:
        with open_container(data) as container:
            stream = container.streams.best("audio")
            if not isinstance(stream, AudioStream):
                raise UnreadableAudio("The file has no audio stream.")
            return _Decoder(container, stream, sample_rate_hz, max_s).decode()
    except (av.FFmpegError, MemoryError):
        raise UnreadableAudio("The file is not an audio file, or it is damaged.") from None


def _refuse_other_files(url: str, flags: int, options: Mapping[str, str]) -> None:
    raise PermissionError("an audio file must not refer to other files")


class _Decoder:
    """Decode and resample one stream, frame by frame."""

    def __init__(
        self, container: InputContainer, stream: AudioStream, sample_rate_hz: int, max_s: float
    ) -> None:
        self._container, self._stream = container, stream
        self._max_s, self._max_samples = max_s, round(max_s * sample_rate_hz)
        self._target_hz = sample_rate_hz
        self._bad_packets = 0
        codec = stream.codec_context
        if codec is None:  # PyAV knows no decoder
            raise UnreadableAudio("The codec of the file's audio is not supported.")
        if codec.name not in _CODECS:
            raise UnreadableAudio(f"The codec {codec.name} is not supported.")
        # Before the first frame, since a decoder allocates by these.
        if codec.sample_rate:
            _check_layout(codec.sample_rate, codec.channels)
        codec.thread_count = 1

    def decode(self) -> DecodedFile:
        frames = self._frames()
        first = next(frames, None)
        if first is None:
            raise UnreadableAudio("The file holds no audio that can be decoded.")
        rate_hz, n_channels = first.sample_rate, first.layout.nb_channels
        _check_layout(rate_hz, n_channels)
        resampler = soxr.ResampleStream(
            rate_hz, self._target_hz, n_channels, dtype="float32", quality="HQ"
        )
        chunks = [resampler.resample_chunk(_samples(first))]
        n_samples = len(chunks[0])
        for frame in frames:
            if (frame.sample_rate, frame.layout.nb_channels) != (rate_hz, n_channels):
                raise UnreadableAudio("The file changes its sample rate or channels on the way.")
            chunks.append(resampler.resample_chunk(_samples(frame)))
            n_samples += len(chunks[-1])
            if n_samples > self._max_samples:
                raise UnreadableAudio(f"The file is longer than {self._max_s:g} seconds.")
        nothing = np.zeros((0, n_channels), dtype=np.float32)
        chunks.append(resampler.resample_chunk(nothing, last=True))
        return DecodedFile(np.concatenate(chunks), rate_hz, self._bad_packets > 0)

    def _frames(self) -> Iterator[AudioFrame]:
        packets = self._container.demux(self._stream)
        for _ in range(_MAX_PACKETS):
            try:
                packet = next(packets, None)
            except av.FFmpegError:  # what follows cannot be found
                self._bad_packets += 1
                return
            if packet is None:
                return
            try:
                frames = packet.decode()
            except av.FFmpegError:
                self._bad_packets += 1
                if self._bad_packets > _MAX_BAD_PACKETS:
                    raise UnreadableAudio("The file is damaged.") from None
                continue
            yield from (frame for frame in frames if isinstance(frame, AudioFrame))
        raise UnreadableAudio("The file is divided into too many packets.")


def _check_layout(sample_rate_hz: int, n_channels: int) -> None:
    if not MIN_RATE_HZ <= sample_rate_hz <= MAX_RATE_HZ:
        raise UnreadableAudio(
            f"The sample rate must be from {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, "
            f"not {sample_rate_hz} Hz."
        )
    if not 1 <= n_channels <= MAX_CHANNELS:
        raise UnreadableAudio(f"The file must have 1 to {MAX_CHANNELS} channels.")


def _samples(frame: AudioFrame) -> NDArray[np.float32]:
    """Return a frame's samples [n, channels]; full scale is 1."""
    try:
        raw = frame.to_ndarray()
    except ValueError:
        raise UnreadableAudio(f"The sample format {frame.format.name} is not supported.") from None
    # Planar frames are [channels, n], packed ones [1, n * channels].
    rows = raw.T if frame.format.is_planar else raw.reshape(-1, frame.layout.nb_channels)
    if rows.dtype == np.uint8:
        rows = rows.astype(np.int16) - 128
        scale = _INTEGER_SCALES["uint8"]
    else:
        scale = _INTEGER_SCALES.get(rows.dtype.name, 1.0)
    if rows.size and not np.abs(rows.astype(np.float64)).max() * scale < _MAX_MAGNITUDE:
        raise UnreadableAudio("The file holds samples that are not numbers.")
    scaled: NDArray[np.float32] = np.ascontiguousarray(rows * scale, dtype=np.float32)
    return scaled
