"""Two voices by turns, on both sockets and over REST: each line by its own, hearing the other."""

from collections.abc import Sequence
from typing import Any

import pytest
import trio

from calling import (
    KEY,
    assert_it_still_serves,
    caller,
    detail_of,
    hear_all,
    house,
    joined_audio,
    locked,
    sine_speech,
    tell,
)
from csm_trio.config import Config, SpeechConfig
from csm_trio.engine.utterance import Utterance
from fakes import SineRunner
from serving import TEST_SERVER, serving

SINGLE = "text-to-dialogue/stream-input"
MULTI = "text-to-dialogue/multi-stream-input"
REST = "/v1/text-to-dialogue"
GUARD_S = 30.0
ANN, BOB = "speaker_2", "speaker_3"
LINES = [
    (ANN, "Hello, how are you?"),
    (BOB, "Quite well. And yourself?"),
    (ANN, "Fine."),
    (ANN, "Shall we go"),
    (BOB, "Let us."),
]
SPOKEN = [
    (2, "Hello, how are you?"),
    (3, "Quite well."),
    (3, "And yourself?"),
    (2, "Fine."),
    (2, "Shall we go"),
    (3, "Let us."),
]


def inputs(**fields: Any) -> list[dict[str, Any]]:
    return [{"text": text, "voice_id": voice_id, **fields} for voice_id, text in LINES]


def assert_said(opened: Sequence[Utterance]) -> None:
    """Check who says what, and what each hears: the last turn of either voice, in order."""
    assert [(one.speaker_id, one.text) for one in opened] == SPOKEN
    # Each is to sound like the clips of its own voice.
    assert [one.voice_id for one in opened] == [f"speaker_{speaker_id}" for speaker_id, _ in SPOKEN]
    heard = [[(turn.speaker_id, turn.text) for turn in one.turns] for one in opened]
    assert heard == [
        [],
        SPOKEN[:1],
        SPOKEN[:2],
        [SPOKEN[0], SPOKEN[2]],
        [SPOKEN[2], SPOKEN[3]],
        [SPOKEN[2], SPOKEN[4]],
    ]


async def test_the_plain_socket_says_every_line_by_its_voice_and_hears_both() -> None:
    runner = SineRunner()
    with trio.fail_after(GUARD_S):
        async with (
            serving(lambda: runner) as server,
            server.dial(door=SINGLE, model_id="eleven_v4_turbo", output_format="pcm_16000") as ws,
        ):
            await tell(ws, {"voices": [ANN, BOB], "voice_settings": {"stability": 0.5}})
            await tell(ws, {"inputs": inputs(new_turn=True)}, {"keep_alive": True}, {"flush": True})
            await tell(ws, {"close_socket": True})
            heard, code = await hear_all(ws)
    assert_said(runner.opened)
    assert joined_audio(heard) == sine_speech(runner.opened, "pcm_16000")
    assert (heard[-1], code) == ({"is_final": True}, 1000)
    assert all(
        frame.keys() == {"audio", "alignment", "normalized_alignment"} for frame in heard[:-1]
    )


async def test_contexts_are_dialogues_of_their_own_and_end_by_saying_what_is_left() -> None:
    runner = SineRunner()
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner) as server, server.dial(door=MULTI) as ws:
            for name, voice in (("a", ANN), ("b", BOB), ("alive", ANN)):
                await tell(ws, {"context_id": name, "voices": [voice]})
            await tell(ws, {"context_id": "a", "inputs": [{"text": "Hello", "voice_id": ANN}]})
            await tell(ws, {"context_id": "b", "inputs": [{"text": "Hi", "voice_id": BOB}]})
            await tell(ws, {"context_id": "a", "close_context": True})
            await tell(ws, {"context_id": "alive", "keep_alive": True}, {"close_socket": True})
            heard, code = await hear_all(ws)
    assert code == 1000
    for name, speaker_id in (("a", 2), ("b", 3)):
        of_it = [frame for frame in heard if frame["context_id"] == name]
        said = [one for one in runner.opened if one.speaker_id == speaker_id]
        assert joined_audio(of_it) == sine_speech(said, "pcm_24000")
        assert of_it[-1] == {"is_final": True, "context_id": name}
    assert [one["context_id"] for one in heard if one.get("is_final")].count("alive") == 1


@pytest.mark.usefixtures("brief_goodbyes")
@pytest.mark.parametrize("door", [SINGLE, MULTI])
@pytest.mark.parametrize(
    ("messages", "error", "words"),
    [
        ([{"inputs": []}, {"inputs": [{"text": "Hi."}]}], "invalid_input_message", "voices must"),
        ([{"voices": ["nobody"]}], "voice_id_does_not_exist", "nobody"),
        ([{"voices": [ANN]}, {"voices": [ANN]}], "invalid_input_message", "voices can only be set"),
        (["{no json"], "invalid_input_message", "Could not parse"),
    ],
)
async def test_a_wrong_message_is_answered_with_one_error_and_a_close(
    door: str, messages: list[Any], error: str, words: str
) -> None:
    async with house() as server:
        async with server.dial(door=door) as ws:
            for message in messages:
                await tell(
                    ws, message if isinstance(message, str) else {"context_id": "a", **message}
                )
            heard, code = await hear_all(ws)
        assert [(one["error"], one["code"]) for one in heard] == [(error, 1008)]
        assert words in heard[0]["message"]
        assert code == 1008
        await assert_it_still_serves(server)


@pytest.mark.usefixtures("brief_goodbyes")
async def test_a_dialogue_wants_the_key_like_any_other_door() -> None:
    async with house(locked()) as server:
        for key in (KEY, "wrong", None):
            async with server.dial(door=SINGLE) as ws:
                shown = {} if key is None else {"xi_api_key": key}
                await tell(ws, {"voices": [ANN], **shown}, {"close_socket": True})
                heard, code = await hear_all(ws)
            assert code == (1000 if key == KEY else 1008)
            assert heard[0].get("error") == (None if key == KEY else "invalid_api_key")
        async with caller(server) as client:
            answer = await client.post(REST, json={"inputs": inputs()})
            assert answer.status_code == 401


@pytest.mark.parametrize("door", [REST, f"{REST}/stream"])
async def test_over_rest_every_line_is_said_by_its_voice_and_hears_both(door: str) -> None:
    runner = SineRunner()
    body = {
        "inputs": inputs(),
        "model_id": "eleven_v3",
        "settings": {"stability": 1},
        "seed": 7,
        "surprise": True,
    }
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner) as server, caller(server) as client:
            answer = await client.post(f"{door}?output_format=pcm_24000", json=body)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "audio/pcm"
    assert answer.headers["character-cost"] == str(sum(len(text) for _, text in LINES))
    assert answer.content == sine_speech(runner.opened, "pcm_24000")
    assert_said(runner.opened)
    assert all(one.sampling.temperature_scale == 0.5 for one in runner.opened)
    assert runner.opened[0].sampling.seed == 7


def one_line(**fields: Any) -> dict[str, Any]:
    return {"inputs": [{"text": "Hi.", "voice_id": ANN, **fields}]}


WRONG: list[tuple[Any, int, list[str]]] = [
    ({}, 422, ["body", "inputs"]),
    ({"inputs": []}, 422, ["body", "inputs"]),
    ({"inputs": "Hi."}, 422, ["body", "inputs"]),
    ({"inputs": ["Hi."]}, 422, ["body", "inputs"]),
    (one_line(voice_id=None), 422, ["body", "inputs", "0", "voice_id"]),
    (one_line(text=" "), 422, ["body", "inputs", "0", "text"]),
    (one_line(text=5), 422, ["body", "inputs", "0", "text"]),
    ({**one_line(), "settings": {"stability": 2}}, 422, ["body", "settings", "stability"]),
    ({"inputs": [{"text": "Hi.", "voice_id": f"{n}"} for n in range(11)]}, 422, ["body", "inputs"]),
    (one_line(voice_id="nobody"), 404, ["voice_not_found"]),
    ({"inputs": 3 * one_line(text="a" * 40)["inputs"]}, 413, ["text_too_long"]),
]


@pytest.mark.parametrize(("body", "status", "named"), WRONG)
async def test_over_rest_what_is_wrong_is_named(body: Any, status: int, named: list[str]) -> None:
    async with house(speech=SpeechConfig(max_text_chars=100)) as server:
        async with caller(server) as client:
            answer = await client.post(REST, json=body)
        assert answer.status_code == status
        if status == 422:
            assert [one["loc"] for one in answer.json()["detail"]] == [named]
        else:
            assert detail_of(answer)["code"] == named[0]
        await assert_it_still_serves(server)


async def test_a_full_house_refuses_a_dialogue_like_any_other_call() -> None:
    config = Config(server=TEST_SERVER)
    with trio.fail_after(GUARD_S):
        async with serving(lambda: SineRunner(slots=1), config) as server, caller(server) as client:
            async with server.dial(door=SINGLE):
                answer = await client.post(REST, json={"inputs": inputs()})
            assert answer.status_code == 503
            assert detail_of(answer)["status"] == "system_busy"
