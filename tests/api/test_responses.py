"""Headers of every answer, browsers' preflights, and the history of previous requests."""

from dataclasses import replace
from typing import Any

import pytest
import trio

from support.client_calls import HI, KEY, SPEECH, http_client, locked, running_server
from support.fakes import SineRunner
from support.serving import TEST_SERVER, serving

ENDPOINTS = [
    (f"{SPEECH}", HI),
    (f"{SPEECH}/stream", HI),
    (f"{SPEECH}/with-timestamps", HI),
    (f"{SPEECH}/stream/with-timestamps", HI),
    ("/v1/audio/speech", {"model": "tts-1", "voice": "alloy", "input": HI["text"]}),
]
GUARD_S = 30.0


@pytest.mark.parametrize(("path", "body"), ENDPOINTS)
async def test_answers_of_speech_have_headers_of_cost_and_concurrency(
    path: str, body: dict[str, Any]
) -> None:
    seven_sessions = replace(TEST_SERVER, max_sessions=7)
    async with (
        running_server(seven_sessions) as server,
        server.dial(),
        http_client(server) as client,
    ):
        answer = await client.post(path, json=body)
    assert answer.status_code == 200
    request_id = answer.headers["request-id"]
    expected = {
        "history-item-id": request_id,
        "x-request-id": request_id,
        "x-trace-id": request_id,
        "x-region": "self-hosted",
        "character-cost": str(len(HI["text"])),
        "current-concurrent-requests": "2",
        "maximum-concurrent-requests": "7",
        "workspace-concurrent-requests": "2",
    }
    assert expected.items() <= dict(answer.headers).items()
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert set(exposed) >= expected.keys() | {"request-id"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/voices", 200),
        ("GET", "/v1/voices/nobody", 404),
        ("GET", "/v1/nowhere", 404),
        ("PUT", SPEECH, 405),
        ("POST", SPEECH, 422),
    ],
)
async def test_all_answers_have_trace_and_cors_headers(method: str, path: str, status: int) -> None:
    async with running_server() as server, http_client(server) as client:
        answer = await client.request(method, path, json={} if method == "POST" else None)
    assert answer.status_code == status
    assert answer.headers["x-trace-id"]
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "character-cost" not in answer.headers


@pytest.mark.parametrize("path", [SPEECH, "/v1/voices", "/v2/voices", "/v1/audio/speech"])
async def test_a_browsers_preflight_needs_no_key(path: str) -> None:
    requested = {
        "origin": "https://example.org",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type, xi-api-key",
    }
    async with running_server(locked()) as server, http_client(server) as client:
        answer = await client.options(path, headers=requested)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "POST" in answer.headers["access-control-allow-methods"]
        allowed = answer.headers["access-control-allow-headers"]
        assert allowed == requested["access-control-request-headers"]
        refused = await client.post(path, json=HI, headers={"origin": "https://example.org"})
        assert refused.status_code in (401, 405)
        assert refused.headers["access-control-allow-origin"] == "*"


async def test_metrics_have_no_cors_headers() -> None:
    async with running_server(locked()) as server, http_client(server) as client:
        answer = await client.get("/metrics", headers={"origin": "https://example.org"})
    assert "access-control-allow-origin" not in answer.headers


async def prompt_texts(
    *bodies: dict[str, Any], query: str = "", voices: tuple[str, ...] = ()
) -> list[list[str]]:
    """Make requests in order; return the texts of the prompt segments of each first sentence.

    A number among `previous_request_ids` is the index of that request.
    """
    runner = SineRunner()
    ids: list[str] = []
    received: list[list[str]] = []
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner) as server, http_client(server) as client:
            for number, body in enumerate(bodies):
                named = [
                    ids[one] if isinstance(one, int) else one
                    for one in body.get("previous_request_ids", [])
                ]
                voice = voices[number] if voices else "default"
                first = len(runner.opened)
                answer = await client.post(
                    f"/v1/text-to-speech/{voice}{query}",
                    json={**body, "previous_request_ids": named},
                )
                assert answer.status_code == 200
                ids.append(answer.headers["request-id"])
                received.append([turn.text for turn in runner.opened[first].history])
    return received


ONE, TWO = {"text": "First of all. It is Monday."}, {"text": "Then it rains."}


async def test_the_prompt_holds_the_ends_of_the_previous_requests() -> None:
    received = await prompt_texts(
        ONE, TWO, {"text": "So stay.", "previous_request_ids": [1, "nobody", 0]}, {"text": "Bye."}
    )
    assert received == [[], [], ["It is Monday.", "Then it rains."], []]


async def test_previous_text_finds_the_request_that_it_ends_with() -> None:
    received = await prompt_texts(
        ONE,
        {**TWO, "previous_text": " It  is Monday. "},
        {"text": "So stay.", "previous_text": f"{ONE['text']} {TWO['text']}"},
        {"text": "Bye.", "previous_text": "Nobody said this."},
    )
    assert received == [[], ["It is Monday."], ["Then it rains."], []]


async def test_known_request_ids_override_previous_text() -> None:
    received = await prompt_texts(
        ONE,
        TWO,
        {"text": "A.", "previous_request_ids": [0], "previous_text": TWO["text"]},
        {"text": "B.", "previous_request_ids": ["nobody"], "previous_text": TWO["text"]},
    )
    assert received[2:] == [["It is Monday."], ["Then it rains."]]


async def test_speech_of_another_voice_is_not_in_the_prompt() -> None:
    received = await prompt_texts(
        ONE,
        {**TWO, "previous_request_ids": [0]},
        {**TWO, "previous_text": ONE["text"]},
        voices=("speaker_1", "speaker_2", "speaker_2"),
    )
    assert received == [[], [], []]


async def test_a_request_without_logging_is_not_in_the_history() -> None:
    received = await prompt_texts(
        ONE, {**TWO, "previous_request_ids": [0]}, query="?enable_logging=false"
    )
    assert received == [[], []]


async def test_next_text_is_not_synthesized() -> None:
    runner = SineRunner()
    async with serving(lambda: runner) as server, http_client(server) as client:
        answer = await client.post(SPEECH, json={**ONE, "next_text": "And then?"})
        assert answer.status_code == 200
    assert " ".join(one.text for one in runner.opened) == ONE["text"]


async def test_a_bearer_key_is_accepted_in_both_conventions() -> None:
    async with running_server(locked()) as server, http_client(server) as client:
        for path, body in ENDPOINTS:
            answer = await client.post(path, json=body, headers={"authorization": f"Bearer {KEY}"})
            assert answer.status_code == 200
