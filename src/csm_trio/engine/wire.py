"""Messages between workers and the engine process, over a Unix stream socket.

Each message is its length and its kind, then the payload. Frames of one step go in one message:
ids, flags, and one block each of samples and codes. Both ends are processes of one server, so that
payloads without a fixed form may be pickled.
"""

import pickle
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any

import numpy as np

from csm_trio.engine.scheduler import Delivery
from csm_trio.engine.utterance import EndReason, Frame, FrameBatch, Utterance
from csm_trio.errors import SpeechError
from csm_trio.timebase import FRAME_SAMPLES

_HEADER = struct.Struct("<IB")  # bytes of payload, kind
_FRAMES = struct.Struct("<III")  # deliveries, frames, codebooks
_DELIVERY = struct.Struct("<QII")  # stream id, frames, end
_ID = struct.Struct("<Q")
_ACKNOWLEDGED = struct.Struct("<QI")  # stream id, frames

_END_CODES: dict[EndReason | None, int] = {None: 0} | {
    end: code for code, end in enumerate(EndReason, start=1)
}
_ENDS = {code: end for end, code in _END_CODES.items()}


class Kind(IntEnum):
    """What a message is; the first four go from a worker to the engine, the rest come back."""

    ADMIT = 1
    ACKNOWLEDGE = 2
    RELEASE = 3
    PING = 4
    GRANTED = 5
    FRAMES = 6
    FAILED = 7
    RELEASED = 8
    PONG = 9


class MessageReader:
    """Cuts received bytes into messages."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes | bytearray) -> Iterator[tuple[Kind, bytes]]:
        """Add bytes; yield the messages that are complete, as kind and payload."""
        self._pending += data
        start, available = 0, len(self._pending)
        while available - start >= _HEADER.size:
            length, kind = _HEADER.unpack_from(self._pending, start)
            end = start + _HEADER.size + length
            if end > available:
                break
            yield Kind(kind), bytes(memoryview(self._pending)[start + _HEADER.size : end])
            start = end
        del self._pending[:start]


def encode_id(kind: Kind, stream_id: int) -> bytes:
    """Return a message about one stream, or a ping, by its id."""
    return _HEADER.pack(_ID.size, kind) + _ID.pack(stream_id)


def decode_id(payload: bytes) -> int:
    """Return the id of such a message."""
    return int(_ID.unpack(payload)[0])


def encode_admit(stream_id: int, session_id: str, utterance: Utterance) -> bytes:
    """Return the message that asks for an utterance."""
    return _pickled(Kind.ADMIT, (stream_id, session_id, utterance))


def decode_admit(payload: bytes) -> tuple[int, str, Utterance]:
    """Return stream id, session id and utterance."""
    stream_id, session_id, utterance = pickle.loads(payload)
    return stream_id, session_id, utterance


def encode_failed(stream_id: int, error: SpeechError) -> bytes:
    """Return the message that an utterance was rejected or failed."""
    return _pickled(Kind.FAILED, (stream_id, error))


def decode_failed(payload: bytes) -> tuple[int, SpeechError]:
    """Return stream id and error."""
    stream_id, error = pickle.loads(payload)
    return stream_id, error


def encode_acknowledged(frames: Mapping[int, int]) -> bytes:
    """Return the message that readers have taken frames, by stream id."""
    payload = b"".join(_ACKNOWLEDGED.pack(*item) for item in frames.items())
    return _HEADER.pack(len(payload), Kind.ACKNOWLEDGE) + payload


def decode_acknowledged(payload: bytes) -> Iterable[tuple[int, int]]:
    """Return stream ids and numbers of frames."""
    return _ACKNOWLEDGED.iter_unpack(payload)


def encode_frames(due: Sequence[tuple[int, Delivery]]) -> bytes:
    """Return one step's deliveries of one worker as a message."""
    frames = [frame for _, delivery in due for frame in delivery.frames]
    codebooks = len(frames[0].codes) if frames else 0
    attended = [np.nan if frame.attended_char is None else frame.attended_char for frame in frames]
    parts: list[Any] = [
        _FRAMES.pack(len(due), len(frames), codebooks),
        *(
            _DELIVERY.pack(stream_id, len(delivery.frames), _END_CODES[delivery.end])
            for stream_id, delivery in due
        ),
        np.array(attended, dtype=np.float32),
        *(frame.codes for frame in frames),
        *(frame.pcm for frame in frames),
    ]
    # ndarrays are joined as the bytes of their buffers.
    payload = b"".join(parts)
    return _HEADER.pack(len(payload), Kind.FRAMES) + payload


def decode_frames(payload: bytes) -> Iterator[tuple[int, FrameBatch, EndReason | None]]:
    """Yield the deliveries of one step: stream id, frame batch (may be empty), end."""
    deliveries, n_frames, codebooks = _FRAMES.unpack_from(payload)
    heads = [
        _DELIVERY.unpack_from(payload, _FRAMES.size + index * _DELIVERY.size)
        for index in range(deliveries)
    ]
    offset = _FRAMES.size + deliveries * _DELIVERY.size
    attended = np.frombuffer(payload, np.float32, n_frames, offset).tolist()
    offset += 4 * n_frames
    # Copied, since codes are kept for as long as their sentence lasts: a view would keep every
    # row's samples with them.
    codes = np.frombuffer(payload, np.int16, n_frames * codebooks, offset).copy()
    offset += 2 * n_frames * codebooks
    pcm = np.frombuffer(payload, np.int16, n_frames * FRAME_SAMPLES, offset)
    frames = [
        Frame(samples, frame_codes, None if char != char else char)
        for samples, frame_codes, char in zip(
            pcm.reshape(n_frames, FRAME_SAMPLES),
            codes.reshape(n_frames, codebooks),
            attended,
            strict=True,
        )
    ]
    at = 0
    for stream_id, count, end in heads:
        yield stream_id, tuple(frames[at : at + count]), _ENDS[end]
        at += count


def _pickled(kind: Kind, value: object) -> bytes:
    payload = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return _HEADER.pack(len(payload), kind) + payload
