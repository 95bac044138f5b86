"""One phone call of a load test: turn after turn over sessions, each as long as its audio plays.

Records every turn in a `Recorder`; figures are computed in `report`.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import trio

from csm_trio.audio.formats import AudioFormat
from csm_trio.bench.load.audible import AudibleStart
from csm_trio.bench.load.workload import Turn, Workload, split_words
from csm_trio.client import Call, Deltas, SpeechTarget
from csm_trio.errors import SpeechError

TICKS_PER_S = 10_000
"""Ticks per second in which gaps and lags are counted: bounds the memory of the counters."""

# Minimum pause after a failed turn: a refused call must not reconnect in a busy loop.
_RETRY_S = 1.0

_HTTP_STATUS = re.compile(r"HTTP status (\d{3})")
_KINDS = {
    "Cannot connect to ": "cannot connect",
    "The server closed the connection before ": "closed early",
    "The server sent nothing for ": "timeout",
    "The server took no text for ": "timeout",
    "The server sent a message that cannot be read": "unreadable message",
    "No audio came": "no audio",
}

Outcome = Literal["completed", "interrupted", "failed", "unfinished"]


class Player:
    """A client's player and its playback buffer: starts at the first audio, waits when empty.

    Times are seconds on one clock, and do not decrease from call to call of `feed`.
    """

    __slots__ = (
        "audio_s",
        "ends_at_s",
        "first_at_s",
        "underrun_s",
        "worst_underrun_after_text_s",
        "worst_underrun_s",
    )

    def __init__(self) -> None:
        self.first_at_s: float | None = None
        self.ends_at_s = 0.0
        self.audio_s = 0.0
        self.worst_underrun_s = 0.0
        self.worst_underrun_after_text_s = 0.0
        self.underrun_s = 0.0

    def feed(self, audio_s: float, now_s: float, *, text_sent_s: float = math.inf) -> None:
        """Add audio that plays for `audio_s` and arrived at `now_s`.

        The time for which the playback buffer was empty before is an underrun; silence after the
        last audio is none. The underrun after `text_sent_s`, when all text had been sent, is
        recorded separately: a slow writer of the text cannot have caused it.
        """
        if self.first_at_s is None:
            self.first_at_s = self.ends_at_s = now_s
        underrun_s = max(0.0, now_s - self.ends_at_s)
        self.worst_underrun_s = max(self.worst_underrun_s, underrun_s)
        after_text_s = min(underrun_s, now_s - text_sent_s)
        self.worst_underrun_after_text_s = max(self.worst_underrun_after_text_s, after_text_s)
        self.underrun_s += underrun_s
        self.ends_at_s = max(now_s, self.ends_at_s) + audio_s
        self.audio_s += audio_s


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """The outcome and timing of one turn.

    `first_audio_s` runs from the moment the last character of the first sentence was sent to the
    first audio that plays (0 if audio arrived before it), `connect_s` from connecting to an
    open session. `hung_up` is true if the barge-in came while audio was still arriving.
    """

    outcome: Outcome
    error: str | None
    connect_s: float | None
    first_audio_s: float | None
    audio_s: float
    real_time_factor: float | None
    worst_underrun_s: float
    worst_underrun_after_text_s: float
    underrun_s: float
    hung_up: bool


@dataclass(frozen=True, slots=True)
class TurnTimes:
    """The moments of one turn, in seconds on Trio's clock; None for one that did not come.

    `text_s` is the moment the first text was sent, which is that of the open session. `ended_s` is
    the moment all audio had arrived, or the turn failed. `audible_at_s` is the moment the player
    reaches the first audible sample, `leading_silence_s` the audio before that sample.
    """

    began_s: float
    text_s: float | None
    last_audio_s: float | None
    ended_s: float | None
    plays_until_s: float | None
    audible_at_s: float | None
    leading_silence_s: float | None


@dataclass(slots=True)
class Recorder:
    """Records of all calls of one point, between `from_s` and `until_s`.

    A turn counts if it begins before `until_s` and ends after `from_s`; it may end after
    `until_s`. `audio_s` is the audio that arrived between the two, in seconds.
    """

    from_s: float = math.inf
    until_s: float = math.inf
    turns: list[TurnRecord] = field(default_factory=list)
    gap_ticks: Counter[int] = field(default_factory=Counter)
    audio_s: float = 0.0
    open_calls: int = 0
    running_turns: int = 0
    pending: int = 0  # running turns that count
    # True if the running turns outlasted the tail; false if the bench was interrupted.
    overdue: bool = False
    drained: trio.Event = field(default_factory=trio.Event)

    def begin_turn(self, now_s: float) -> bool:
        """Record the start of a turn; return whether it can count."""
        counted = now_s < self.until_s
        self.running_turns += 1
        self.pending += counted
        return counted

    def end_turn(self, record: TurnRecord, now_s: float, *, counted: bool) -> None:
        """Record the end of a turn; leave out a turn that the bench itself cancelled."""
        self.running_turns -= 1
        if not counted:
            return
        self.pending -= 1
        if now_s >= self.from_s and (record.outcome != "unfinished" or self.overdue):
            self.turns.append(record)
        if not self.pending and now_s >= self.until_s:
            self.drained.set()

    def note_audio(self, audio_s: float, now_s: float) -> None:
        """Add `audio_s` seconds of audio that arrived now, in any turn."""
        if self.from_s <= now_s < self.until_s:
            self.audio_s += audio_s

    def note_gap(self, gap_s: float, now_s: float) -> None:
        """Record the time between two audio chunks of one turn, the second of which arrived now."""
        if self.from_s <= now_s < self.until_s:
            self.gap_ticks[round(gap_s * TICKS_PER_S)] += 1


async def run_call(
    workload: Workload, audio_format: AudioFormat, turns: Iterable[Turn], recorder: Recorder
) -> None:
    """Run the turns one after the other, each in its own session, until `turns` ends.

    Failures of the server are recorded, not raised.
    """
    target = SpeechTarget(
        workload.base_url, workload.voice_id, audio_format, api_key=workload.api_key
    )
    recorder.open_calls += 1
    try:
        for turn in turns:
            running = RunningTurn(target, turn, workload.words_per_s, recorder)
            counted = recorder.begin_turn(trio.current_time())
            try:
                await running.run()
            finally:
                recorder.end_turn(running.record(), trio.current_time(), counted=counted)
            await trio.sleep(max(turn.pause_s, _RETRY_S) if running.failed else turn.pause_s)
    finally:
        recorder.open_calls -= 1


def error_kind(message: str) -> str:
    """Classify an error message of `client` or of a server."""
    status = _HTTP_STATUS.search(message)
    if status:
        return f"refused {status.group(1)}"
    kinds = (kind for words, kind in _KINDS.items() if message.startswith(words))
    return next(kinds, "server error")


class RunningTurn:
    """One running turn: sends its text, plays its audio, and may be interrupted by barge-in.

    `recorder` gets its audio and its gaps; with `audible`, the turn also finds its first audible
    sample.
    """

    def __init__(
        self,
        target: SpeechTarget,
        turn: Turn,
        words_per_s: float,
        recorder: Recorder,
        *,
        audible: AudibleStart | None = None,
    ) -> None:
        self._call = Call(target)
        self._format = target.audio_format
        self._turn = turn
        self._words_per_s = words_per_s
        self._recorder = recorder
        self._audible = audible
        self._player = Player()
        self._first_audio = trio.Event()
        self._playing = trio.CancelScope()
        self._all_received = False
        self._interrupted = self._hung_up = False
        self._error: str | None = None
        self._finished = False
        self._n_bytes = 0
        self._began_s = trio.current_time()
        self._open_s: float | None = None
        self._sentence_s: float | None = None
        self._text_sent_s = math.inf
        self._last_chunk_s: float | None = None
        self._ended_s: float | None = None

    @property
    def failed(self) -> bool:
        """Whether the server failed the turn."""
        return self._error is not None

    async def run(self) -> None:
        """Run the turn to the end of its audio as it plays, or to the barge-in."""
        async with trio.open_nursery() as nursery:
            if self._turn.interrupt_after_s is not None:
                nursery.start_soon(self._interrupt_after, self._turn.interrupt_after_s)
            await self._receive_all()
            if not self.failed:
                with self._playing:
                    await trio.sleep_until(self._player.ends_at_s)
            nursery.cancel_scope.cancel()
        self._finished = True

    async def receive(self) -> None:
        """Run the turn until its last audio has arrived, without barge-in.

        The player's times are known then: to wait until it has played would change nothing.
        """
        await self._receive_all()
        self._finished = True

    async def _receive_all(self) -> None:
        try:
            await self._call.speak(self._deltas(), self._on_audio)
        except SpeechError as error:
            self._error = error.message
        else:
            self._all_received = True
            if self._player.first_at_s is None:
                self._error = "No audio came."
        self._ended_s = trio.current_time()

    async def _interrupt_after(self, played_s: float) -> None:
        """Interrupt `played_s` after the first audio, unless the turn has ended by then."""
        await self._first_audio.wait()
        assert self._player.first_at_s is not None
        await trio.sleep_until(self._player.first_at_s + played_s)
        self._interrupted = True
        self._hung_up = not self._all_received
        if self._hung_up:
            self._call.hang_up()
        self._playing.cancel()

    async def _deltas(self) -> Deltas:
        """Yield the text deltas at the pace of the workload, once the session is open."""
        self._open_s = trio.current_time()
        if not self._words_per_s:
            self._sentence_s = self._open_s
            yield self._turn.text
            self._text_sent_s = trio.current_time()
            return
        words, sentence_end = split_words(self._turn.text)
        for index, word in enumerate(words):
            await trio.sleep_until(self._open_s + index / self._words_per_s)
            if index == sentence_end:
                self._sentence_s = trio.current_time()
            yield word
        self._text_sent_s = trio.current_time()

    async def _on_audio(self, chunk: bytes) -> None:
        now_s = trio.current_time()
        before_s = self._played_s()
        self._n_bytes += len(chunk)
        audio_s = self._played_s() - before_s
        if not audio_s:  # a WAV header
            if self._audible is not None:
                self._audible.feed(chunk, now_s)
            return
        self._player.feed(audio_s, now_s, text_sent_s=self._text_sent_s)
        if self._audible is not None:
            self._audible.feed(chunk, self._player.ends_at_s - audio_s)
        self._first_audio.set()
        self._recorder.note_audio(audio_s, now_s)
        if self._last_chunk_s is not None:
            self._recorder.note_gap(now_s - self._last_chunk_s, now_s)
        self._last_chunk_s = now_s

    def _played_s(self) -> float:
        audio_s = self._format.duration_s(self._n_bytes)
        assert audio_s is not None, "the flags reject formats without a constant byte rate"
        return audio_s

    def times(self) -> TurnTimes:
        """Return the moments so far."""
        player, audible = self._player, self._audible
        return TurnTimes(
            began_s=self._began_s,
            text_s=self._open_s,
            last_audio_s=self._last_chunk_s,
            ended_s=self._ended_s,
            plays_until_s=None if player.first_at_s is None else player.ends_at_s,
            audible_at_s=None if audible is None else audible.at_s,
            leading_silence_s=None if audible is None else audible.leading_silence_s,
        )

    def record(self) -> TurnRecord:
        """Return the outcome and timing so far."""
        player = self._player
        first_audio_s = None
        if player.first_at_s is not None:
            sentence_s = player.first_at_s if self._sentence_s is None else self._sentence_s
            first_audio_s = max(0.0, player.first_at_s - sentence_s)
        return TurnRecord(
            outcome=self._outcome(),
            error=self._error,
            connect_s=None if self._open_s is None else self._open_s - self._began_s,
            first_audio_s=first_audio_s,
            audio_s=player.audio_s,
            real_time_factor=self._call.arrivals.timing().real_time_factor,
            worst_underrun_s=player.worst_underrun_s,
            worst_underrun_after_text_s=player.worst_underrun_after_text_s,
            underrun_s=player.underrun_s,
            hung_up=self._hung_up,
        )

    def _outcome(self) -> Outcome:
        if self._error is not None:
            return "failed"
        if not self._finished:
            return "unfinished"
        return "interrupted" if self._interrupted else "completed"
