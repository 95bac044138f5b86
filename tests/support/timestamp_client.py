"""A client that reads alignments, on each endpoint that sends them."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from support.client_calls import GUARD_S, SPEECH, http_client, joined_audio, receive_all, send
from support.serving import Server

STREAM = "text-to-speech/{voice}/stream-input"
MULTI = "text-to-speech/{voice}/multi-stream-input"
DIALOGUE = "text-to-dialogue/stream-input"
MULTI_DIALOGUE = "text-to-dialogue/multi-stream-input"
ENDPOINTS = [STREAM, MULTI, DIALOGUE, MULTI_DIALOGUE, "with-timestamps", "stream/with-timestamps"]

BREAK_MS = 400
WRITTEN = "It costs $5.20 on 3/5/2024. Wait, there are *2 of 3* here. Good. "
SPOKEN = (
    "It costs five dollars and twenty cents on March fifth, twenty twenty four. "
    "Wait, there are two of three here. Good. "
)
TEXT = WRITTEN.replace("Wait, ", f'Wait, <break time="{BREAK_MS}ms"/>')

Message = dict[str, Any]


@dataclass
class ReceivedAlignment:
    """The alignments of a stream in one spelling, joined as a client that adds up durations does.

    With `absolute` times they count from the stream's start, else from their own chunk's.
    """

    absolute: bool = False
    text: str = ""
    starts_ms: list[int] = field(default_factory=list)
    clock_ms: int = 0

    def note(self, chars: list[str], starts: list[int], durations: list[int]) -> None:
        assert len(chars) == len(starts) == len(durations) > 0
        assert all(type(ms) is int and ms >= 0 for ms in [*starts, *durations])
        ends = [start + lasts for start, lasts in zip(starts, durations, strict=True)]
        assert ends[:-1] == starts[1:], "characters leave no gap and do not overlap"
        if self.absolute:
            assert starts[0] == self.clock_ms
        by_ms = 0 if self.absolute else self.clock_ms
        self.text += "".join(chars)
        self.starts_ms += [by_ms + start for start in starts]
        assert self.starts_ms == sorted(self.starts_ms)
        self.clock_ms = by_ms + ends[-1]


@dataclass
class ReceivedSpeech:
    """Both spellings of a stream, and its audio."""

    written: ReceivedAlignment
    spoken: ReceivedAlignment
    audio: bytes

    @classmethod
    def of_messages(
        cls, messages: Sequence[Message], names: Sequence[str], *, absolute: bool = False
    ) -> "ReceivedSpeech":
        """Read a socket's messages; `names` are the keys of the alignments and of their members."""
        written, spoken, chars, starts, durations = names
        received = cls(
            ReceivedAlignment(absolute), ReceivedAlignment(absolute), joined_audio(messages)
        )
        for message in messages:
            for track, name in ((received.written, written), (received.spoken, spoken)):
                if one := message.get(name):
                    assert one.keys() == {chars, starts, durations}
                    track.note(one[chars], one[starts], one[durations])
        return received

    @classmethod
    def of_objects(cls, objects: Sequence[Message]) -> "ReceivedSpeech":
        """Read the JSON objects of a `with-timestamps` endpoint."""
        audio = b"".join(base64.b64decode(one["audio_base64"]) for one in objects)
        received = cls(ReceivedAlignment(absolute=True), ReceivedAlignment(absolute=True), audio)
        for one in objects:
            for track, name in (
                (received.written, "alignment"),
                (received.spoken, "normalized_alignment"),
            ):
                if alignment := one[name]:
                    starts, ends = (
                        [round(1000 * at) for at in alignment[f"character_{which}_times_seconds"]]
                        for which in ("start", "end")
                    )
                    spans = [end - start for start, end in zip(starts, ends, strict=True)]
                    track.note(alignment["characters"], starts, spans)
        return received


CAMEL = ("alignment", "normalizedAlignment", "chars", "charStartTimesMs", "charDurationsMs")
SNAKE = (
    "alignment",
    "normalized_alignment",
    "chars",
    "char_start_times_ms",
    "char_durations_ms",
)


async def receive(
    server: Server,
    endpoint: str,
    text: str = TEXT,
    *,
    speed: float = 1.0,
    output_format: str = "pcm_24000",
    sync: bool = False,
) -> ReceivedSpeech:
    """Send a text in deltas of seven characters (REST: whole); return all audio and alignments."""
    settings = {"voice_settings": {"speed": speed}}
    query: Message = {
        "output_format": output_format,
        "sync_alignment": str(sync).lower(),
        "seed": 7,
    }
    if not endpoint.startswith("text-to"):
        async with http_client(server) as client:
            answer = await client.post(
                f"{SPEECH}/{endpoint}?output_format={output_format}",
                json={"text": text, "seed": 7, **settings},
                headers={"accept": "application/x-ndjson"},
                timeout=GUARD_S,
            )
        assert answer.status_code == 200
        return ReceivedSpeech.of_objects([json.loads(line) for line in answer.content.splitlines()])
    deltas = [text[at : at + 7] for at in range(0, len(text), 7)]
    async with server.dial(endpoint=endpoint, **query) as ws:
        if endpoint in (DIALOGUE, MULTI_DIALOGUE):
            await send(ws, {"context_id": "a", "voices": ["default"], **settings})
            await send(ws, *({"context_id": "a", "inputs": [{"text": one}]} for one in deltas))
        else:
            await send(ws, {"context_id": "a", "text": " ", **settings})
            await send(ws, *({"context_id": "a", "text": one} for one in deltas))
        await send(ws, {"text": ""} if endpoint == STREAM else {"close_socket": True})
        messages, code = await receive_all(ws)
    assert code == 1000
    snake = endpoint in (DIALOGUE, MULTI_DIALOGUE)
    return ReceivedSpeech.of_messages(
        messages, SNAKE if snake else CAMEL, absolute=sync and endpoint == MULTI
    )
