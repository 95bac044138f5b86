"""A client that reads every alignment as it is meant, at each of the doors that send them."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from support.client_calls import GUARD_S, SPEECH, caller, hear_all, joined_audio, tell
from support.serving import Server

STREAM = "text-to-speech/{voice}/stream-input"
MULTI = "text-to-speech/{voice}/multi-stream-input"
DIALOGUE = "text-to-dialogue/stream-input"
MULTI_DIALOGUE = "text-to-dialogue/multi-stream-input"
DOORS = [STREAM, MULTI, DIALOGUE, MULTI_DIALOGUE, "with-timestamps", "stream/with-timestamps"]

BREAK_MS = 400
WRITTEN = "It costs $5.20 on 3/5/2024. Wait, there are *2 of 3* here. Good. "
SPOKEN = (
    "It costs five dollars and twenty cents on March fifth, twenty twenty four. "
    "Wait, there are two of three here. Good. "
)
TEXT = WRITTEN.replace("Wait, ", f'Wait, <break time="{BREAK_MS}ms"/>')

Message = dict[str, Any]


@dataclass
class Told:
    """One spelling of a stream, as a client puts it together that adds up spans.

    With `absolute` times its pieces count from the stream's start, else from their own.
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
class Heard:
    """Both spellings of a stream, and its audio."""

    written: Told
    spoken: Told
    audio: bytes

    @classmethod
    def of_frames(
        cls, frames: Sequence[Message], names: Sequence[str], *, absolute: bool = False
    ) -> "Heard":
        """Read a socket's frames; `names` are those of the alignments and of their members."""
        written, spoken, chars, starts, durations = names
        heard = cls(Told(absolute), Told(absolute), joined_audio(frames))
        for frame in frames:
            for told, name in ((heard.written, written), (heard.spoken, spoken)):
                if one := frame.get(name):
                    assert one.keys() == {chars, starts, durations}
                    told.note(one[chars], one[starts], one[durations])
        return heard

    @classmethod
    def of_objects(cls, objects: Sequence[Message]) -> "Heard":
        """Read the JSON objects of a timestamps door."""
        audio = b"".join(base64.b64decode(one["audio_base64"]) for one in objects)
        heard = cls(Told(absolute=True), Told(absolute=True), audio)
        for one in objects:
            for told, name in (
                (heard.written, "alignment"),
                (heard.spoken, "normalized_alignment"),
            ):
                if alignment := one[name]:
                    starts, ends = (
                        [round(1000 * at) for at in alignment[f"character_{which}_times_seconds"]]
                        for which in ("start", "end")
                    )
                    spans = [end - start for start, end in zip(starts, ends, strict=True)]
                    told.note(alignment["characters"], starts, spans)
        return heard


CAMEL = ("alignment", "normalizedAlignment", "chars", "charStartTimesMs", "charDurationsMs")
SNAKE = (
    "alignment",
    "normalized_alignment",
    "chars",
    "char_start_times_ms",
    "char_durations_ms",
)


async def hear(
    server: Server,
    door: str,
    text: str = TEXT,
    *,
    speed: float = 1.0,
    output_format: str = "pcm_24000",
    sync: bool = False,
) -> Heard:
    """Have a text said at a door in deltas of seven characters, and read all that is told."""
    settings = {"voice_settings": {"speed": speed}}
    query: Message = {
        "output_format": output_format,
        "sync_alignment": str(sync).lower(),
        "seed": 7,
    }
    if not door.startswith("text-to"):
        async with caller(server) as client:
            answer = await client.post(
                f"{SPEECH}/{door}?output_format={output_format}",
                json={"text": text, "seed": 7, **settings},
                headers={"accept": "application/x-ndjson"},
                timeout=GUARD_S,
            )
        assert answer.status_code == 200
        return Heard.of_objects([json.loads(line) for line in answer.content.splitlines()])
    deltas = [text[at : at + 7] for at in range(0, len(text), 7)]
    async with server.dial(door=door, **query) as ws:
        if door in (DIALOGUE, MULTI_DIALOGUE):
            await tell(ws, {"context_id": "a", "voices": ["default"], **settings})
            await tell(ws, *({"context_id": "a", "inputs": [{"text": one}]} for one in deltas))
        else:
            await tell(ws, {"context_id": "a", "text": " ", **settings})
            await tell(ws, *({"context_id": "a", "text": one} for one in deltas))
        await tell(ws, {"text": ""} if door == STREAM else {"close_socket": True})
        frames, code = await hear_all(ws)
    assert code == 1000
    snake = door in (DIALOGUE, MULTI_DIALOGUE)
    return Heard.of_frames(frames, SNAKE if snake else CAMEL, absolute=sync and door == MULTI)
