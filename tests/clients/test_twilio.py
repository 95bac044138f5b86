"""A phone bot between Twilio's Media Streams and the real server: the sound, and a barge-in.

Twilio's side is the only double: its player holds the audio that a phone would play. The messages
are those of https://www.twilio.com/docs/voice/media-streams/websocket-messages.
"""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from numpy.typing import NDArray
from websockets.sync.client import ClientConnection, connect

from clients.conftest import KEY, Served

pytestmark = pytest.mark.clients

STREAM_SID = "MZ18ad3ab5a668481ce02b83e7395059f0"
LONG = "Thank you for calling us today about the order that you made. " * 4
NEXT = "Of course, I can help you."
SEED = 7
DEADLINE_S = 60
G711_SNR_DB = 30.0


@dataclass
class Twilio:
    """The phone's side of one stream: its player, marks and clears.

    Like the real one it refuses messages of other streams, empties its player at a `clear`, and
    returns the marks of the discarded audio.
    """

    player: list[str] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    returned_marks: list[str] = field(default_factory=list)
    clears: int = 0

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the first events of a phone call, up to the first audio."""
        yield {"event": "connected", "protocol": "Call", "version": "1.0.0"}
        form = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
        start = {"streamSid": STREAM_SID, "tracks": ["inbound"], "mediaFormat": form}
        yield {"event": "start", "streamSid": STREAM_SID, "start": start}
        silence = base64.b64encode(b"\xff" * 160).decode()
        yield {"event": "media", "streamSid": STREAM_SID, "media": {"payload": silence}}

    def take(self, message: str) -> None:
        """Handle one message of the bot."""
        event = json.loads(message)
        assert event["streamSid"] == STREAM_SID
        match event["event"]:
            case "media":
                base64.b64decode(event["media"]["payload"], validate=True)
                self.player.append(event["media"]["payload"])
            case "mark":
                self.marks.append(event["mark"]["name"])
            case "clear":
                self.clears += 1
                self.player.clear()
                self.returned_marks += self.marks
                self.marks.clear()
            case other:
                raise AssertionError(f"Twilio knows no {other}")


class Bot:
    """A bot: passes base64 audio on unchanged, and nothing of a turn after its `clear`."""

    def __init__(self, speech: ClientConnection, twilio: Twilio) -> None:
        self._speech = speech
        self._twilio = twilio
        self._stream_sid = ""
        self.discarded_chunks = 0
        for event in twilio.events():
            if event["event"] == "start":
                assert event["start"]["mediaFormat"]["encoding"] == "audio/x-mulaw"
                self._stream_sid = event["start"]["streamSid"]

    def send_text(self, turn: str, text: str) -> None:
        self._speech.send(json.dumps({"context_id": turn, "text": text}))
        self._speech.send(json.dumps({"context_id": turn, "text": " ", "flush": True}))

    def receive(self, turn: str) -> dict[str, Any]:
        """Pass the next audio of `turn` on; return the message, which may be its last."""
        while True:
            message: dict[str, Any] = json.loads(self._speech.recv(timeout=DEADLINE_S))
            assert "error" not in message
            if message.get("contextId", turn) != turn:
                self.discarded_chunks += message["audio"] is not None
                continue
            if message["audio"] is not None:
                self._send("media", media={"payload": message["audio"]})
            return message

    def interrupt(self, turn: str) -> None:
        """Cancel `turn`: the user has begun to speak."""
        self.clear()
        self._speech.send(json.dumps({"context_id": turn, "text": "", "close_context": True}))
        self._speech.send(json.dumps({"context_id": turn, "close_context": True}))

    def clear(self) -> None:
        self._send("clear")

    def mark(self, name: str) -> None:
        self._send("mark", mark={"name": name})

    def _send(self, event: str, **fields: object) -> None:
        self._twilio.take(json.dumps({"event": event, "streamSid": self._stream_sid, **fields}))


def dial(server: Served, endpoint: str, output_format: str) -> ClientConnection:
    requested = urlencode({"output_format": output_format, "seed": SEED})
    url = f"ws://127.0.0.1:{server.port}/v1/text-to-speech/default/{endpoint}?{requested}"
    return connect(url, additional_headers={"xi-api-key": KEY}, proxy=None)


def synthesized_alone(server: Served, text: str, output_format: str) -> bytes:
    """Return the audio of `text` from a socket of its own."""
    with dial(server, "stream-input", output_format) as speech:
        speech.send(json.dumps({"text": text}))
        speech.send(json.dumps({"text": ""}))
        whole = b""
        while not (message := json.loads(speech.recv(timeout=DEADLINE_S)))["isFinal"]:
            whole += base64.b64decode(message["audio"])
    return whole


def mulaw_to_pcm(data: bytes) -> NDArray[np.float64]:
    """Decode G.711 by its text: sign, three bits of segment, four of step, all inverted."""
    code = ~np.frombuffer(data, dtype=np.uint8)
    segment, step = (code >> 4) & 7, (code & 15).astype(np.int32)
    magnitude = (((step << 3) + 132) << segment) - 132
    return np.where(code & 128, -magnitude, magnitude).astype(np.float64)


def snr_db(mulaw: bytes, pcm: bytes) -> float:
    exact = np.frombuffer(pcm, dtype="<i2").astype(np.float64)
    noise = mulaw_to_pcm(mulaw) - exact
    return float(10 * np.log10(np.sum(exact**2) / np.sum(noise**2)))


def test_mulaw_audio_matches_the_pcm_of_the_same_seed(server: Served) -> None:
    twilio = Twilio()
    with dial(server, "multi-stream-input", "ulaw_8000") as speech:
        bot = Bot(speech, twilio)
        bot.send_text("hello", NEXT)
        speech.send(json.dumps({"context_id": "hello", "close_context": True}))
        while not bot.receive("hello").get("isFinal"):
            pass
        bot.mark("hello")
    received = b"".join(map(base64.b64decode, twilio.player))
    assert twilio.marks == ["hello"]
    assert len(received) % 640 == 0  # Frames of 80 ms.
    assert snr_db(received, synthesized_alone(server, NEXT, "pcm_8000")) > G711_SNR_DB


def test_after_a_barge_in_only_the_next_turn_is_played(
    server: Served,
) -> None:
    twilio = Twilio()
    with dial(server, "multi-stream-input", "ulaw_8000") as speech:
        bot = Bot(speech, twilio)
        bot.send_text("first", LONG)
        bot.receive("first")
        bot.mark("first")
        bot.interrupt("first")
        assert (twilio.player, twilio.returned_marks, twilio.clears) == ([], ["first"], 1)
        bot.send_text("next", NEXT)
        speech.send(json.dumps({"context_id": "next", "close_context": True}))
        while not bot.receive("next").get("isFinal"):
            pass
        speech.send(json.dumps({"close_socket": True}))
    received = b"".join(map(base64.b64decode, twilio.player))
    assert bot.discarded_chunks * 640 < len(synthesized_alone(server, LONG, "ulaw_8000")) / 2
    assert received == synthesized_alone(server, NEXT, "ulaw_8000")


def test_after_a_hang_up_on_barge_in_a_new_socket_serves_the_next_turn(server: Served) -> None:
    twilio = Twilio()
    with dial(server, "stream-input", "ulaw_8000") as speech:
        bot = Bot(speech, twilio)
        bot.send_text("", LONG)
        bot.receive("")
        bot.clear()
    with dial(server, "stream-input", "ulaw_8000") as speech:
        bot = Bot(speech, twilio)
        bot.send_text("", NEXT)
        speech.send(json.dumps({"text": ""}))
        while not bot.receive("").get("isFinal"):
            pass
    received = b"".join(map(base64.b64decode, twilio.player))
    assert received == synthesized_alone(server, NEXT, "ulaw_8000")
