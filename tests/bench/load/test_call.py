"""One line against a server whose every move is written down."""

import math
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock
from trio_websocket import WebSocketRequest

from csm_trio.audio.formats import AudioFormat
from csm_trio.audio.wav import wav_header
from csm_trio.bench.load.call import Recorder, TurnRecord, error_kind, run_call
from csm_trio.bench.load.point import Point
from csm_trio.bench.load.report import sum_up
from csm_trio.bench.load.workload import Turn, Workload
from csm_trio.errors import EngineBusy
from csm_trio.protocol.elevenlabs.errors import socket_error
from support.scripted_server import (
    FINAL,
    Script,
    all_text,
    close_code,
    next_text,
    scripted_server,
    spoken,
)

PCM = AudioFormat.parse("pcm_24000")
SECOND = bytes(48_000)
GUARD_S = 30.0

TURN = Turn("Hello you.", None, 0.0)


class HeardTally(Recorder):
    """A tally that lets a script wait until its audio has been heard."""

    def __init__(self) -> None:
        super().__init__(from_s=0.0)
        self.heard = trio.Semaphore(0)

    def note_audio(self, audio_s: float, now_s: float) -> None:
        super().note_audio(audio_s, now_s)
        self.heard.release()


async def hold(
    script: Script,
    recorder: Recorder,
    *turns: Turn,
    words_per_s: float = 0.0,
    audio_format: AudioFormat = PCM,
) -> list[TurnRecord]:
    async with scripted_server(script) as url:
        workload = Workload(url, (audio_format,), words_per_s=words_per_s)
        await run_call(workload, audio_format, turns, recorder)
    assert (recorder.open_calls, recorder.running_turns, recorder.pending) == (0, 0, 0)
    return recorder.turns


async def test_a_stall_is_an_underrun_and_c100_sees_it(mock_clock: MockClock) -> None:
    recorder = HeardTally()

    async def script(request: WebSocketRequest) -> None:
        socket = await request.accept()
        assert await all_text(socket) == ["Hello you."]
        for wait_s in (0.25, 1.5, 0.5):
            mock_clock.jump(wait_s)
            await socket.send_message(spoken(SECOND))
            await recorder.heard.acquire()
        await socket.send_message(FINAL)
        await close_code(socket)
        mock_clock.jump(60)

    (record,) = await hold(script, recorder, TURN)
    assert record == TurnRecord(
        outcome="completed",
        error=None,
        connect_s=0.0,
        first_audio_s=0.25,
        audio_s=3.0,
        real_time_factor=0.75,
        worst_underrun_s=0.5,
        worst_underrun_after_text_s=0.5,
        underrun_s=0.5,
        hung_up=False,
    )
    assert recorder.gap_ticks == {15_000: 1, 5_000: 1}
    figures = sum_up(Point(1, recorder))
    assert (figures.c100, figures.c100_after_text) == (0.0, 0.0)


async def test_first_audio_counts_from_the_end_of_the_first_sentence(
    mock_clock: MockClock,
) -> None:
    recorder = HeardTally()

    async def script(request: WebSocketRequest) -> None:
        socket = await request.accept()
        assert await next_text(socket) == "One "
        mock_clock.jump(1)
        assert await next_text(socket) == "two. "
        mock_clock.jump(0.25)
        await socket.send_message(spoken(SECOND))
        await recorder.heard.acquire()
        # The writer's next word is late: that silence is not the server's.
        mock_clock.jump(3.75)
        assert await next_text(socket) == "Three."
        assert await next_text(socket) == ""
        await socket.send_message(spoken(SECOND))
        await recorder.heard.acquire()
        await socket.send_message(FINAL)
        await close_code(socket)
        mock_clock.jump(60)

    (record,) = await hold(script, recorder, replace(TURN, text="One two. Three."), words_per_s=1.0)
    assert record.first_audio_s == 0.25
    assert (record.worst_underrun_s, record.worst_underrun_after_text_s) == (2.75, 0.0)
    figures = sum_up(Point(1, recorder))
    assert (figures.c100, figures.c100_after_text) == (0.0, 1.0)


async def test_a_wav_header_is_not_the_first_audio(mock_clock: MockClock) -> None:
    recorder = HeardTally()

    async def script(request: WebSocketRequest) -> None:
        socket = await request.accept()
        await all_text(socket)
        await socket.send_message(spoken(wav_header(24_000, data_bytes=None)))
        await socket.send_message(spoken(SECOND))
        await recorder.heard.acquire()
        await socket.send_message(FINAL)
        await close_code(socket)
        mock_clock.jump(60)

    wav = AudioFormat.parse("wav_24000")
    (record,) = await hold(script, recorder, TURN, audio_format=wav)
    assert (record.audio_s, record.worst_underrun_s) == (1.0, 0.0)
    assert not recorder.gap_ticks


async def test_a_barge_in_hangs_up_while_audio_still_arrives(mock_clock: MockClock) -> None:
    recorder = HeardTally()

    async def script(request: WebSocketRequest) -> None:
        socket = await request.accept()
        await all_text(socket)
        await socket.send_message(spoken(SECOND))
        await recorder.heard.acquire()
        mock_clock.jump(0.5)
        assert await close_code(socket) == 1000

    (record,) = await hold(script, recorder, replace(TURN, interrupt_after_s=0.5))
    assert (record.outcome, record.hung_up, record.audio_s) == ("interrupted", True, 1.0)
    assert sum_up(Point(1, recorder)).c100 == 1.0


async def test_an_interruption_of_speech_that_is_all_there_only_ends_the_listening(
    autojump_clock: MockClock,
) -> None:
    autojump_clock.autojump_threshold = 0.05
    recorder = Recorder(from_s=0.0)

    async def script(request: WebSocketRequest) -> None:
        socket = await request.accept()
        await all_text(socket)
        await socket.send_message(spoken(SECOND))
        await socket.send_message(FINAL)
        await close_code(socket)

    (record,) = await hold(script, recorder, replace(TURN, interrupt_after_s=0.75))
    assert (record.outcome, record.hung_up) == ("interrupted", False)
    assert trio.current_time() == pytest.approx(0.75)


async def refuse(request: WebSocketRequest) -> None:
    await request.reject(503, body=b'{"detail": {"message": "The server is at capacity."}}')


async def leave(request: WebSocketRequest) -> None:
    socket = await request.accept()
    await next_text(socket)
    await socket.aclose()


async def complain(request: WebSocketRequest) -> None:
    socket = await request.accept()
    await all_text(socket)
    await socket.send_message(socket_error(EngineBusy()).to_text())
    await close_code(socket)


async def babble(request: WebSocketRequest) -> None:
    socket = await request.accept()
    await all_text(socket)
    await socket.send_message("[")
    await close_code(socket)


async def say_nothing(request: WebSocketRequest) -> None:
    socket = await request.accept()
    await all_text(socket)
    await socket.send_message(FINAL)
    await close_code(socket)


FAILURES = [
    (refuse, "refused 503"),
    (leave, "closed early"),
    (complain, "server error"),
    (babble, "unreadable message"),
    (say_nothing, "no audio"),
]


@pytest.mark.parametrize(("script", "kind"), FAILURES)
async def test_a_failure_has_a_kind_and_the_next_turn_dials_again(
    script: Script, kind: str, autojump_clock: MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.05
    recorder = Recorder(from_s=0.0)
    records = await hold(script, recorder, TURN, TURN)
    assert [record.outcome for record in records] == ["failed", "failed"]
    assert {error_kind(record.error or "") for record in records} == {kind}
    # One second to the next call and one more after it: a refused call does not dial in a loop.
    assert trio.current_time() >= 2
    figures = sum_up(Point(1, recorder))
    assert (figures.errors, figures.c100, figures.failed) == ({kind: 2}, 0.0, 2)


async def test_a_refused_connection_counts_as_a_failure(autojump_clock: MockClock) -> None:
    recorder = Recorder(from_s=0.0)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    await run_call(Workload(f"ws://127.0.0.1:{port}", (PCM,)), PCM, [TURN], recorder)
    (record,) = recorder.turns
    assert (error_kind(record.error or ""), record.connect_s) == ("cannot connect", None)


def test_silence_is_a_timeout_by_the_clients_words() -> None:
    assert error_kind("The server sent nothing for 60 seconds.") == "timeout"
    assert error_kind("The server took no text for 60 seconds.") == "timeout"


def record(outcome: str = "completed") -> TurnRecord:
    return TurnRecord(
        outcome,  # type: ignore[arg-type]
        *(None, None, 0.1, 1.0, 0.5, 0.0, 0.0, 0.0),
        hung_up=False,
    )


# begins, ends, outcome, overdue, counted
TURNS = [
    (0.0, 9.0, "completed", False, False),
    (0.0, 10.0, "completed", False, True),
    (15.0, 16.0, "completed", False, True),
    (19.0, 60.0, "completed", False, True),
    (20.0, 21.0, "completed", False, False),
    (15.0, 20.0, "unfinished", False, False),
    (15.0, 40.0, "unfinished", True, True),
]


@pytest.mark.parametrize(("begin_s", "end_s", "outcome", "overdue", "counts"), TURNS)
def test_turns_count_that_are_spoken_in_the_measured_time(
    begin_s: float, end_s: float, outcome: str, overdue: bool, counts: bool
) -> None:
    recorder = Recorder(from_s=10.0, until_s=20.0, overdue=overdue)
    counted = recorder.begin_turn(begin_s)
    assert recorder.pending == counted
    recorder.end_turn(record(outcome), end_s, counted=counted)
    assert len(recorder.turns) == counts
    assert recorder.pending == 0
    assert recorder.drained.is_set() == (counted and end_s >= 20)


def test_sound_and_gaps_count_in_the_measured_time() -> None:
    recorder = Recorder(from_s=10.0, until_s=20.0)
    for now_s in (9.9, 10.0, 19.9, 20.0, math.inf):
        recorder.note_audio(1.0, now_s)
        recorder.note_gap(0.08, now_s)
    assert (recorder.audio_s, recorder.gap_ticks) == (2.0, {800: 2})
