"""Test doubles: a runner that makes sines, an engine without a thread, a scripted WebSocket.

An utterance alone determines its frames: `sine_frames` returns those that a test must get.
"""

import json
import math
import re
import threading
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import trio

from csm_trio.engine.utterance import (
    MAX_BATCH_FRAMES,
    EndReason,
    Frame,
    FrameBatch,
    StepResult,
    Utterance,
)
from csm_trio.errors import NotFinite, SpeechError, TextTooLong
from csm_trio.text.normalization.numbers import cardinal

FRAME_SAMPLES = 1_920
SAMPLE_RATE_HZ = 24_000
CODEBOOKS = 4
FRAMES_PER_WORD = 2
GUARD_S = 10.0
"""Seconds that a blocked thread of a broken test waits before it raises."""

_COUNTS = {words: count for count in range(10_000) for words in (str(count), cardinal(count))}
_COUNT_WORDS = "|".join(
    rf" ?\b{word}" for word in set(" ".join(map(cardinal, range(2_000))).split())
)
# As a test writes it, or with the number in words, as text normalization leaves it.
_FRAMES_MARK = re.compile(r"FRAMES(?:=| equals )(\d+|(?:" + _COUNT_WORDS + r")+)(?!\w)")
_PREFILLS_MARK = re.compile(r"PREFILLS=(\d+)")


def frame_count(text: str) -> int:
    """Return how many frames a text takes: two a word, or the number after `FRAMES=` in it."""
    mark = _FRAMES_MARK.search(text)
    return _COUNTS[mark.group(1)] if mark else FRAMES_PER_WORD * len(text.split())


def sine_frame(utterance: Utterance, index: int) -> Frame:
    """Return one frame: the pitch is the text's, the loudness the speaker's; no two are equal."""
    voice = zlib.crc32(utterance.text.encode())
    hz = 200 + voice % 1_500
    amplitude = 4_000 + 1_000 * (utterance.speaker_id % 20)
    at = np.arange(index * FRAME_SAMPLES, (index + 1) * FRAME_SAMPLES)
    pcm = (amplitude * np.sin(2 * math.pi * hz / SAMPLE_RATE_HZ * at)).astype(np.int16)
    codes = [index, voice % 2_048, utterance.speaker_id % 2_048, (voice >> 11) % 2_048]
    return Frame(pcm, np.array(codes, dtype=np.int16))


def sine_frames(utterance: Utterance) -> list[Frame]:
    """Return all frames of an utterance that is not cancelled."""
    frames = min(frame_count(utterance.text), utterance.max_frames)
    return [sine_frame(utterance, index) for index in range(frames)]


class StepGate:
    """Holds every step of a runner until it is released; waits by semaphore, from any thread."""

    def __init__(self) -> None:
        self._held = threading.Semaphore(0)
        self._go = threading.Semaphore(0)
        self._open = threading.Event()

    def release(self, steps: int = 1) -> None:
        """Release this many steps, held now or to come."""
        self._go.release(steps)

    def open(self) -> None:
        """Release all steps from now on."""
        self._open.set()
        self._go.release()

    def wait_held(self) -> None:
        """Block until one more step is held; in a Trio test, call it by `held`."""
        if not self._held.acquire(timeout=GUARD_S):
            raise TimeoutError("no step came")

    async def held(self) -> None:
        """Wait until one more step is held."""
        await trio.to_thread.run_sync(self.wait_held)

    def pass_through(self) -> None:
        """Wait until the step is released; called by the runner."""
        if self._open.is_set():
            return
        self._held.release()
        if not self._go.acquire(timeout=GUARD_S):
            raise TimeoutError("a held step was never released")


@dataclass(frozen=True, slots=True)
class RunnerCall:
    """One call of a runner, and the slots it was about: those that `prefill` completed."""

    name: str
    slots: tuple[int, ...]


class SineRunner:
    """A Runner without torch: every utterance is a sine of its own.

    A text with REFUSE in it gets TextTooLong from `open`; one with EXPLODE a RuntimeError from
    `step`, as a broken device would; the row of one with OVERFLOW fails at its end. Misuse raises
    AssertionError: to open a taken slot, to step or close a free one, to step past an end or before
    the prompt is complete.

    `calls` and `opened` grow on the device thread and may be read from any.
    """

    def __init__(
        self, slots: int = 4, *, step_gate: StepGate | None = None, max_prefills_per_step: int = 1
    ) -> None:
        self.slots = slots
        self.max_prefills_per_step = max_prefills_per_step
        self.calls: list[RunnerCall] = []
        self.opened: list[Utterance] = []
        self._gate = step_gate
        self._utterances: dict[int, Utterance] = {}
        self._made: dict[int, int] = {}
        self._prefills_left: dict[int, int] = {}

    @property
    def steps(self) -> list[tuple[int, ...]]:
        """The slots of every step so far."""
        return [call.slots for call in list(self.calls) if call.name == "step"]

    @property
    def opens(self) -> list[int]:
        """The slots opened so far, in order."""
        return [call.slots[0] for call in list(self.calls) if call.name == "open"]

    @property
    def closes(self) -> list[int]:
        """The slots closed so far, in order."""
        return [call.slots[0] for call in list(self.calls) if call.name == "close"]

    def open(self, batch: Sequence[tuple[int, Utterance]]) -> Sequence[int | SpeechError]:
        assert 0 < len(batch) <= self.max_prefills_per_step, (
            "too many utterances were opened at once"
        )
        return [self._open(slot, utterance) for slot, utterance in batch]

    def _open(self, slot: int, utterance: Utterance) -> int | SpeechError:
        assert 0 <= slot < self.slots, f"there is no slot {slot}"
        assert slot not in self._utterances, f"slot {slot} is taken"
        if "REFUSE" in utterance.text:
            return TextTooLong(len(utterance.text) - 1)
        self.calls.append(RunnerCall("open", (slot,)))
        self.opened.append(utterance)
        self._utterances[slot] = utterance
        self._made[slot] = 0
        mark = _PREFILLS_MARK.search(utterance.text)
        self._prefills_left[slot] = int(mark.group(1)) if mark else 1
        return utterance.max_frames

    def prefill(self) -> Sequence[int]:
        """Run one chunk of every prompt."""
        assert self._prefills_left, "a prefill without prompts"
        self._prefills_left = {slot: left - 1 for slot, left in self._prefills_left.items()}
        done = [slot for slot, left in self._prefills_left.items() if not left]
        for slot in done:
            del self._prefills_left[slot]
        self.calls.append(RunnerCall("prefill", tuple(done)))
        return done

    def step(self, slots: Sequence[int]) -> Sequence[StepResult]:
        assert slots, "a step without slots"
        assert len(set(slots)) == len(slots), "a slot is twice in one step"
        assert self._prefills_left.keys().isdisjoint(slots), (
            "a slot ran before its prompt was complete"
        )
        self.calls.append(RunnerCall("step", tuple(slots)))
        if self._gate is not None:
            self._gate.pass_through()
        return [self._next_frame(slot) for slot in slots]

    def close(self, slot: int) -> None:
        del self._utterances[slot], self._made[slot]
        self._prefills_left.pop(slot, None)
        self.calls.append(RunnerCall("close", (slot,)))

    def _next_frame(self, slot: int) -> StepResult:
        utterance, index = self._utterances[slot], self._made[slot]
        if "EXPLODE" in utterance.text:
            raise RuntimeError("the device is gone")
        frames = frame_count(utterance.text)
        assert index <= frames, f"slot {slot} ran past its end"
        self._made[slot] = index + 1
        if index < frames:
            return sine_frame(utterance, index)
        return NotFinite() if "OVERFLOW" in utterance.text else None


class FakeStream:
    """The frames of one utterance, as the engine's FrameStream gives them."""

    def __init__(self, utterance: Utterance, engine: "FakeEngine") -> None:
        self.utterance = utterance
        self.end: EndReason | None = None
        self.delivered = 0
        self._engine = engine

    def __aiter__(self) -> "FakeStream":
        return self

    async def __anext__(self) -> FrameBatch:
        await trio.sleep(self._engine.frame_delay_s)
        error = self._engine.error_for(self.utterance.text)
        if error is not None:
            raise error
        frames = min(frame_count(self.utterance.text), self.utterance.max_frames)
        if self.delivered == frames:
            self.end = self._engine.end_of(self.utterance, self.delivered)
            raise StopAsyncIteration
        # Single frames before frame batches, as the engine delivers them.
        wanted = 1 if self.delivered < self._engine.frames_alone else MAX_BATCH_FRAMES
        first, self.delivered = self.delivered, min(self.delivered + wanted, frames)
        return tuple(sine_frame(self.utterance, index) for index in range(first, self.delivered))


@dataclass(slots=True)
class FakeEngine:
    """An Engine without a thread, whose time is Trio's: each frame takes `frame_delay_s`.

    After `frames_alone` frames of an utterance, a frame batch takes that time. `errors` maps a part
    of a text to the error of an utterance that contains it, `ends` to why it ends. `closed_at_s`
    has the time, on Trio's clock, at which each utterance released its slot.
    """

    slots: int = 4
    frame_delay_s: float = 0.0
    frames_alone: float = math.inf
    errors: dict[str, SpeechError] = field(default_factory=dict)
    ends: dict[str, EndReason] = field(default_factory=dict)
    utterances: list[Utterance] = field(default_factory=list)
    streams: list[FakeStream] = field(default_factory=list)
    closed_at_s: list[float] = field(default_factory=list)
    open_utterances: int = 0

    @asynccontextmanager
    async def generate(
        self, utterance: Utterance, session_id: str = ""
    ) -> AsyncIterator[FakeStream]:
        """Generate one utterance, as `Engine.generate` does."""
        await trio.lowlevel.checkpoint()
        stream = FakeStream(utterance, self)
        self.utterances.append(utterance)
        self.streams.append(stream)
        self.open_utterances += 1
        try:
            yield stream
        finally:
            self.open_utterances -= 1
            self.closed_at_s.append(trio.current_time())

    def error_for(self, text: str) -> SpeechError | None:
        """Return the error of an utterance of this text, if it fails."""
        return next((error for part, error in self.errors.items() if part in text), None)

    def end_of(self, utterance: Utterance, frames: int) -> EndReason:
        """Return why an utterance ends after so many frames."""
        own = EndReason.SPOKEN if frames < utterance.max_frames else EndReason.CAPPED
        return next((end for part, end in self.ends.items() if part in utterance.text), own)


class ScriptedSocket:
    """Both ends of a WebSocket: the server's `receive` and `send`, the client's `client_...`.

    The wire to the client holds `capacity` messages; when it is full, `send` blocks until the
    client receives one. The client never hangs up: a test cancels instead.
    """

    def __init__(self, *, capacity: float = math.inf) -> None:
        self.sent: list[str] = []
        self._to_server, self._from_client = trio.open_memory_channel[str | bytes](math.inf)
        self._to_client, self._from_server = trio.open_memory_channel[str](capacity)

    async def receive(self) -> str | bytes:
        """Return the client's next message; the server's side."""
        return await self._from_client.receive()

    async def send(self, message: str) -> None:
        """Send the client a message; the server's side."""
        await self._to_client.send(message)
        self.sent.append(message)

    def client_send(self, *messages: dict[str, object] | str | bytes) -> None:
        """Send the server messages, values as JSON; the client's side."""
        for message in messages:
            raw = json.dumps(message) if isinstance(message, dict) else message
            self._to_server.send_nowait(raw)

    async def client_receive(self) -> dict[str, object]:
        """Wait for the server's next message; the client's side."""
        message = json.loads(await self._from_server.receive())
        assert isinstance(message, dict)
        return message

    @property
    def unread(self) -> int:
        """How many of the client's messages the server has not read."""
        return self._from_client.statistics().current_buffer_used
