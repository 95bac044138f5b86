"""One item on one server: its speech, sped up where its subtitle's time asks for it, as a file.

Blocking work on samples runs in threads.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import trio

from csm_trio.audio.decode import decode, duration_s
from csm_trio.audio.encoders import make_encoder
from csm_trio.audio.formats import AudioFormat
from csm_trio.audio.loudness import normalize_loudness
from csm_trio.audio.wav import with_true_lengths
from csm_trio.batch.item import Item, sha256
from csm_trio.batch.manifest import Entry
from csm_trio.batch.servers import Server
from csm_trio.batch.speech_exchange import AttemptFailed, Speech, request_speech
from csm_trio.timebase import SAMPLE_RATE_HZ

_SAMPLES = AudioFormat.parse("pcm_24000")


@dataclass(frozen=True, slots=True)
class SpokenItem:
    """The bytes of an item's file, and its line of the manifest."""

    audio: bytes
    entry: Entry


async def synthesize(item: Item, server: Server, api_key: str | None) -> SpokenItem:
    """Return an item's file from this server; raises what `request_speech` raises."""
    # Loudness is a matter of samples: the file's own encoding comes after it.
    audio_format = item.audio_format if item.loudness_lufs is None else _SAMPLES
    speed = item.speed
    try:
        audio = await _request(item, server, api_key, audio_format, speed)
        natural_s = await trio.to_thread.run_sync(duration_s, audio, audio_format)
        if (faster := item.speed_for(natural_s)) != speed:
            speed = faster
            audio = await _request(item, server, api_key, audio_format, speed)
        make = partial(_spoken_item, item, audio, natural_s=natural_s, speed=speed)
        return await trio.to_thread.run_sync(make)
    except ValueError as error:
        raise AttemptFailed(f"The server sent audio that cannot be used: {error}") from None


async def _request(
    item: Item, server: Server, api_key: str | None, audio_format: AudioFormat, speed: float
) -> bytes:
    own = server.in_flight
    answers: list[Speech] = []

    async def ask() -> None:
        answers.append(
            await request_speech(
                server.base_url, api_key, item, audio_format=audio_format, speed=speed
            )
        )

    await server.guard(ask)
    (speech,) = answers
    server.note_speech(speech.sessions, own=own)
    return with_true_lengths(speech.audio) if audio_format.codec == "wav" else speech.audio


def _spoken_item(item: Item, audio: bytes, *, natural_s: float, speed: float) -> SpokenItem:
    lufs = None
    if item.loudness_lufs is not None:
        pcm, lufs = normalize_loudness(
            decode(audio, _SAMPLES)[0], SAMPLE_RATE_HZ, item.loudness_lufs
        )
        audio = _encode(pcm, item.audio_format)
    entry = Entry(
        file=item.file,
        line=item.line,
        text=item.text_hash,
        settings=item.settings_hash,
        audio=sha256(audio),
        audio_s=round(duration_s(audio, item.audio_format), 6),
        natural_s=natural_s,
        speed=speed,
        loudness_lufs=None if lufs is None else round(lufs, 2),
    )
    return SpokenItem(audio, entry)


def _encode(pcm: "np.typing.NDArray[np.int16]", audio_format: AudioFormat) -> bytes:
    encoder = make_encoder(audio_format)
    audio = encoder.encode(pcm) + encoder.finish()
    return with_true_lengths(audio) if audio_format.codec == "wav" else audio
