"""Which character is heard when: on every door, all of the text and all of the audio, in order."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import trio

from csm_trio.config import Config, SpeechConfig
from support.client_calls import GUARD_S, hear_all, joined_audio, tell, until
from support.fakes import SineRunner, StepGate, sine_frames
from support.serving import TEST_SERVER, serving
from support.timestamp_client import (
    BREAK_MS,
    CAMEL,
    DIALOGUE,
    DOORS,
    MULTI,
    MULTI_DIALOGUE,
    SNAKE,
    SPOKEN,
    WRITTEN,
    Heard,
    Message,
    hear,
)


def audio_ms(runner: SineRunner, speed: float = 1.0) -> int:
    """Return how long all lasts that a runner made, and the pause in TEXT."""
    frames = sum(len(sine_frames(one)) for one in runner.opened)
    return round((frames + round(BREAK_MS / 80 * speed)) * 80 / speed)


@pytest.mark.parametrize("speed", [0.8, 1.0, 1.2])
@pytest.mark.parametrize("output_format", ["pcm_24000", "mp3_44100_64", "opus_48000_32"])
@pytest.mark.parametrize("door", DOORS)
async def test_every_character_and_all_the_audio_is_told_of_in_order(
    door: str, output_format: str, speed: float
) -> None:
    runner = SineRunner()
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner) as server:
            heard = await hear(server, door, speed=speed, output_format=output_format)
    assert (heard.written.text, heard.spoken.text) == (WRITTEN, SPOKEN)
    assert heard.written.clock_ms == heard.spoken.clock_ms == audio_ms(runner, speed)
    if output_format == "pcm_24000":
        assert len(heard.audio) / 48 == pytest.approx(heard.written.clock_ms, abs=1)


@pytest.mark.parametrize("door", DOORS)
async def test_a_sentence_that_is_said_in_parts_loses_no_character(door: str) -> None:
    written = f"{'they paid $5.20 for it and ' * 30}left. "
    runner = SineRunner()
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner) as server:
            heard = await hear(server, door, written)
    assert len(runner.opened) > 2
    assert heard.written.text == written
    assert heard.spoken.text == written.replace("$5.20", "five dollars and twenty cents")
    assert heard.written.clock_ms == heard.spoken.clock_ms == len(heard.audio) / 48


async def test_with_sync_alignment_times_count_from_the_contexts_start() -> None:
    runner = SineRunner()
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner) as server:
            heard = await hear(server, MULTI, sync=True)
    assert (heard.written.text, heard.spoken.text) == (WRITTEN, SPOKEN)
    assert heard.written.clock_ms == audio_ms(runner)


def of_context(frames: Sequence[Message], name: str, door: str) -> Heard:
    names = SNAKE if door == MULTI_DIALOGUE else CAMEL
    own = [frame for frame in frames if frame["context_id"] == name]
    return Heard.of_frames(own, names, absolute=door == MULTI)


async def open_context(ws: Any, door: str, name: str, text: str) -> None:
    if door == MULTI_DIALOGUE:
        await tell(ws, {"context_id": name, "voices": ["default"], "inputs": [{"text": text}]})
    else:
        await tell(ws, {"context_id": name, "text": text})


@pytest.mark.parametrize("door", [MULTI, MULTI_DIALOGUE])
async def test_each_context_has_its_own_clock_also_when_one_is_closed_in_its_middle(
    door: str,
) -> None:
    gate = StepGate()
    runner = SineRunner(step_gate=gate)
    long, short, again = "Cut me off FRAMES=400 please. ", "Hear me out to the end. ", "Me again. "
    frames: list[Message] = []
    with trio.fail_after(GUARD_S):
        async with (
            serving(lambda: runner) as server,
            server.dial(door=door, sync_alignment="true") as ws,
        ):
            await open_context(ws, door, "a", long)
            await open_context(ws, door, "b", short)
            said_chars = len(long) + len(short)
            gate.let_go(20)
            while not (frames and of_context(frames, "a", door).written.text):
                frames.append(json.loads(await ws.get_message()))
            close = {"context_id": "a", "close_context": True}
            await tell(ws, close, close)  # twice: on the dialogue socket the second one stops
            await open_context(ws, door, "heard after the close", "Hm. ")
            await until(lambda: server.metric("csm_characters_total") == said_chars + len("Hm. "))
            gate.open()
            while not (frames[-1].get("is_final") and frames[-1]["context_id"] == "a"):
                frames.append(json.loads(await ws.get_message()))
            cut = of_context(frames, "a", door)
            await open_context(ws, door, "a", again)
            await tell(ws, {"close_socket": True})
            later, code = await hear_all(ws)
    assert code == 1000
    assert cut.written.text
    assert long.startswith(cut.written.text)
    assert len(cut.audio) / 48 < 400 * 80
    assert cut.written.clock_ms <= len(cut.audio) / 48
    for heard, text in (
        (of_context(later, "a", door), again),
        (of_context([*frames, *later], "b", door), short),
    ):
        assert heard.written.text == heard.spoken.text == text
        assert heard.written.clock_ms == len(heard.audio) / 48


@pytest.mark.parametrize("door", [DIALOGUE, MULTI_DIALOGUE])
async def test_in_a_dialogue_times_count_from_each_messages_own_start(door: str) -> None:
    # A client that looks at the audio it has had, as LiveKit does, must find words in order, too.
    words = "Slowly said FRAMES=90 now. "
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner) as server, server.dial(door=door) as ws:
            await open_context(ws, MULTI_DIALOGUE, "a", words)
            await tell(ws, {"close_socket": True})
            frames, _ = await hear_all(ws)
    at_ms, starts_ms = 0.0, []
    silent = [frame for frame in frames if frame.get("audio") and frame["alignment"] is None]
    assert silent, "with so few words some messages have no character"
    for frame in frames:
        own_ms = len(joined_audio([frame])) / 48
        if alignment := frame.get("alignment"):
            starts = alignment["char_start_times_ms"]
            assert all(0 <= start <= own_ms for start in starts)
            starts_ms += [at_ms + start for start in starts]
        at_ms += own_ms
    assert all(one <= other for one, other in pairwise(starts_ms))


@pytest.mark.parametrize("door", [DIALOGUE, MULTI_DIALOGUE, *DOORS[4:]])
async def test_it_can_be_switched_off_at_every_door(door: str) -> None:
    config = Config(server=TEST_SERVER, speech=SpeechConfig(alignment="off"))
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner, config) as server:
            heard = await hear(server, door)
    assert heard.audio
    assert heard.written.text == heard.spoken.text == ""
