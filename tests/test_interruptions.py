"""Barge-ins on real sockets, with the messages that real clients send."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from trio_websocket import WebSocketConnection

from csm_trio.config import Config
from csm_trio.text.normalization.normalize import normalize
from support.client_calls import GUARD_S, joined_audio, receive_all, send, sine_speech, until
from support.fakes import SineRunner, StepGate
from support.serving import TEST_SERVER, Server, serving

pytestmark = pytest.mark.usefixtures("each_topology")

MULTI = "text-to-speech/{voice}/multi-stream-input"
ENDLESS = "This sentence goes on and on so that it takes a while to be said aloud. " * 30
LAST = "Now you may speak."
INTERRUPTIONS = 8

Message = dict[str, Any]


def pipecat_turn(context_id: str, text: str) -> list[Message]:
    """A turn whose text has not ended: no flush, sentences as they are."""
    settings = {"stability": 0.5, "similarity_boost": 0.75}
    return [
        {"text": " ", "context_id": context_id, "voice_settings": settings},
        {"text": text, "context_id": context_id},
    ]


def livekit_turn(context_id: str, text: str) -> list[Message]:
    """A turn whose text has not ended: every sentence is flushed."""
    opener = {"text": " ", "voice_settings": {}, "context_id": context_id}
    return [opener, {"text": f"{text} ", "context_id": context_id, "flush": True}]


def end_of_turn(context_id: str, client: str) -> list[Message]:
    empty = {} if client == "Pipecat" else {"text": ""}
    return [{**empty, "context_id": context_id, "flush": True}, close(context_id)]


def close(context_id: str) -> Message:
    return {"context_id": context_id, "close_context": True}


TURNS = {"Pipecat": pipecat_turn, "LiveKit": livekit_turn}


@asynccontextmanager
async def two_slots() -> AsyncIterator[tuple[Server, SineRunner]]:
    runner = SineRunner(slots=2)
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner, Config(server=TEST_SERVER)) as server:
            yield server, runner


class SocketReader:
    """All messages received on one socket, in order."""

    def __init__(self, ws: WebSocketConnection) -> None:
        self.received: list[Message] = []
        self._ws = ws

    async def next(self, context_id: str, *, final: bool) -> Message:
        """Read on until the next audio, or the end, of a context."""
        while True:
            message = json.loads(await self._ws.get_message())
            self.received.append(message)
            assert "error" not in message
            if message["contextId"] == context_id and message["isFinal"] is final:
                return dict(message)

    def of(self, context_id: str) -> list[Message]:
        return [message for message in self.received if message["contextId"] == context_id]


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("client", TURNS)
async def test_eight_interruptions_in_a_row_and_the_next_turn(client: str, waits: bool) -> None:
    turn = TURNS[client]
    async with two_slots() as (server, runner), server.dial(endpoint=MULTI, auto_mode="true") as ws:
        idle = server.tasks()
        reader = SocketReader(ws)
        for number in range(INTERRUPTIONS):
            await send(ws, *turn(f"turn {number}", ENDLESS))
            await reader.next(f"turn {number}", final=False)
            await send(ws, close(f"turn {number}"))
            if waits:
                await reader.next(f"turn {number}", final=True)
                assert server.state.engine.borrowed_slots == 0
        await send(ws, *turn("last", LAST), *end_of_turn("last", client))
        await reader.next("last", final=True)
        for number in range(INTERRUPTIONS):
            finals = [message["isFinal"] for message in reader.of(f"turn {number}")]
            assert finals == [False] * (len(finals) - 1) + [True]
        assert joined_audio(reader.of("last")) == sine_speech(runner.opened[-1:], "pcm_24000")
        assert runner.opened[-1].text == LAST
        await until(lambda: server.tasks() == idle)
        assert server.metric("csm_cancels_total", reason="closed") == INTERRUPTIONS
        await send(ws, {"close_socket": True})
        assert await receive_all(ws) == ([], 1000)


async def test_a_second_close_cancels_an_ended_turn() -> None:
    """Pipecat's barge-in while the last of a turn plays out."""
    async with two_slots() as (server, _), server.dial(endpoint=MULTI) as ws:
        reader = SocketReader(ws)
        for number in range(INTERRUPTIONS):
            name = f"turn {number}"
            await send(ws, *pipecat_turn(name, ENDLESS), *end_of_turn(name, "Pipecat"))
            await reader.next(name, final=False)
            await send(ws, close(name))
            await reader.next(name, final=True)
            assert server.state.engine.borrowed_slots == 0


async def test_completed_turns_are_synthesized_and_allow_five_more_contexts() -> None:
    """LiveKit sends no cancel once the text has ended: it discards the audio itself."""
    async with two_slots() as (server, runner), server.dial(endpoint=MULTI) as ws:
        reader = SocketReader(ws)
        names = [f"turn {number}" for number in range(INTERRUPTIONS)]
        for name in names:
            await send(ws, *livekit_turn(name, f"I am {name}."), *end_of_turn(name, "LiveKit"))
        for name in ("a", "b", "c", "d", "e"):
            await send(ws, {"text": " ", "context_id": name})
        await send(ws, {"close_socket": True})
        received, code = await receive_all(ws)
        reader.received = received
        assert code == 1000
        for name in names:
            (utterance,) = [
                one for one in runner.opened if one.text == normalize(f"I am {name}.").text
            ]
            assert joined_audio(reader.of(name)) == sine_speech([utterance], "pcm_24000")
        assert sorted(one["contextId"] for one in received if one["isFinal"]) == sorted(
            [*names, "a", "b", "c", "d", "e"]
        )


async def test_the_slot_of_a_barge_in_is_released_within_two_steps() -> None:
    gate = StepGate()
    runner = SineRunner(slots=1, step_gate=gate)
    config = Config(server=replace(TEST_SERVER, max_sessions=2))
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner, config) as server:
            try:
                async with server.dial(endpoint=MULTI) as ws:
                    reader = SocketReader(ws)
                    await send(ws, *pipecat_turn("a", ENDLESS))
                    await gate.held()
                    gate.release()
                    await reader.next("a", final=False)
                    await gate.held()
                    steps = len(runner.steps)
                    await send(ws, close("a"), *pipecat_turn("b", f"{LAST} "))
                    await wait_all_tasks_blocked(0.02)  # both wait for the held step
                    gate.release(2)
                    await reader.next("a", final=True)
                    await until(lambda: len(runner.opened) == 2)
                    assert len(runner.steps) <= steps + 2
                    gate.open()
                    await reader.next("b", final=False)
            finally:
                gate.open()


async def test_clear_on_the_plain_socket_cancels_at_once_and_keeps_the_socket() -> None:
    async with two_slots() as (server, runner), server.dial() as ws:
        received: list[Message] = []
        for _ in range(INTERRUPTIONS):
            await send(ws, {"text": ENDLESS})
            while not (message := json.loads(await ws.get_message())).get("audio"):
                received.append(message)
            await send(ws, {"clear": True})
            while not (message := json.loads(await ws.get_message())).get("cleared"):
                received.append(message)
            assert message == {
                "audio": None,
                "isFinal": False,
                "normalizedAlignment": None,
                "alignment": None,
                "cleared": True,
            }
            assert server.state.engine.borrowed_slots == 0
        await send(ws, {"text": LAST}, {"text": ""})
        rest, code = await receive_all(ws)
        assert code == 1000
        assert joined_audio(rest) == sine_speech(runner.opened[-1:], "pcm_24000")
        assert runner.opened[-1].text == LAST
        assert [message["isFinal"] for message in [*received, *rest]].count(True) == 1
        assert server.metric("csm_cancels_total", reason="cleared") == INTERRUPTIONS


async def test_two_hundred_contexts_opened_and_closed_leave_nothing() -> None:
    async with two_slots() as (server, _):
        idle = server.tasks()
        max_tasks = 0
        async with server.dial(endpoint=MULTI) as ws, trio.open_nursery() as nursery:

            async def flood() -> None:
                nonlocal max_tasks
                for number in range(200):
                    await send(ws, {"text": "Hi. ", "context_id": f"{number}"}, close(f"{number}"))
                    max_tasks = max(max_tasks, server.tasks())
                await send(ws, {"close_socket": True})

            nursery.start_soon(flood)
            received, code = await receive_all(ws)
            nursery.cancel_scope.cancel()
        assert code in (1000, 1008)
        if code == 1000:
            assert sum(one["isFinal"] for one in received) == 200
        assert max_tasks < idle + 500
        await until(lambda: server.tasks() == idle)
        assert server.state.engine.borrowed_slots == 0
