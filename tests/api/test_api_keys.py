"""Several API keys: their file, its reload, the sessions of each, and what they do not share."""

import hashlib
import json
import logging
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from csm_trio.api.api_keys import ApiKeys, KeyStore, digest_of, load_keys
from csm_trio.config import Config, ServerConfig
from csm_trio.errors import StartupError
from csm_trio.telemetry import configure_logging
from support.client_calls import (
    HI,
    KEY,
    SOCKET,
    SPEECH,
    detail_of,
    dial_refused,
    http_client,
    receive_all,
    running_server,
    send,
    until,
)
from support.fakes import SineRunner, StepGate
from support.serving import TEST_SERVER, Server, serving

ALICE, BOB = "alice-key", "bob-key"
ENTRIES = [
    {"name": "alice", "key": ALICE, "max_sessions": 1},
    {"name": "bob", "sha256": hashlib.sha256(BOB.encode()).hexdigest().upper()},
]


def write(file: Path, entries: object) -> ServerConfig:
    file.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return replace(TEST_SERVER, api_keys_file=file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_keys_are_found_by_their_digest(file: Path) -> None:
    keys = load_keys(replace(write(file, ENTRIES), api_key=KEY))
    found = [keys.find(key) for key in (ALICE, BOB, KEY, "none", "\ud800")]
    assert [one and one.name for one in found] == ["alice", "bob", "default", None, None]
    assert [one and one.max_sessions for one in found[:2]] == [1, None]
    assert keys.required
    for secret in (ALICE, KEY, digest_of(ALICE).hex()):
        assert secret not in repr(keys)


def test_a_file_without_entries_shuts_everyone_out(file: Path) -> None:
    assert load_keys(write(file, [])) == ApiKeys({}, required=True)
    assert not load_keys(TEST_SERVER).required


SECRET = "sk_never-shown"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[", "is not valid JSON"),
        ("", "is not valid JSON"),
        ("{}", "a JSON list"),
        ([SECRET], "entry 1 must be an object"),
        ([{"name": "a", "key": SECRET, "max_session": 1}], "entry 1 must be an object"),
        ([{"name": "a", "key": SECRET, SECRET: 1}], "entry 1 must be an object"),
        ([{"key": SECRET}], "entry 1: name must be"),
        ([{"name": f"a {SECRET}", "key": SECRET}], "entry 1: name must be"),
        ([{"name": 5, "key": SECRET}], "entry 1: name must be"),
        ([{"name": "a"}], "must have a key or its sha256"),
        ([{"name": "a", "key": SECRET, "sha256": 64 * "a"}], "must have a key or its sha256"),
        ([{"name": "a", "key": ""}], "key must be 1 to 512"),
        ([{"name": "a", "key": f"{SECRET} "}], "key must be 1 to 512"),
        ([{"name": "a", "key": [SECRET]}], "key must be 1 to 512"),
        ([{"name": "a", "sha256": 63 * "a"}], "sha256 must be 64"),
        ([{"name": "a", "key": SECRET, "max_sessions": 0}], "max_sessions must be"),
        ([{"name": "a", "key": SECRET, "max_sessions": True}], "max_sessions must be"),
        ([{"name": "a", "key": SECRET, "max_sessions": "2"}], "max_sessions must be"),
        ([{"name": "a", "key": SECRET}, {"name": "a", "key": "b"}], "the name 'a' occurs twice"),
        ([{"name": "a", "key": SECRET}, {"name": "b", "key": SECRET}], "its key occurs twice"),
        ([{"name": "default", "key": SECRET}], "is taken by --api-key"),
        (f'[{{"name": "a", "key": "{SECRET}", "key": "b"}}]', "occurs twice in one object"),
    ],
)
def test_a_wrong_file_is_one_sentence_without_a_key(
    file: Path, content: object, reason: str
) -> None:
    with pytest.raises(StartupError) as caught:
        load_keys(write(file, content))
    assert reason in str(caught.value)
    assert str(caught.value).startswith(f"The keys file {file}")
    assert SECRET not in str(caught.value)


async def test_a_file_that_is_not_there_prevents_the_start(file: Path) -> None:
    config = replace(TEST_SERVER, api_keys_file=file)
    with pytest.raises(StartupError, match=r"keys\.json cannot be read"):
        KeyStore(config)


async def post(server: Server, key: str, **body: Any) -> Any:
    async with http_client(server) as client:
        return await client.post(
            f"{SPEECH}?output_format=pcm_16000", json={**HI, **body}, headers={"xi-api-key": key}
        )


@pytest.mark.usefixtures("each_topology", "short_error_to_close")
async def test_a_key_has_no_more_sessions_than_its_own(file: Path) -> None:
    config = replace(write(file, ENTRIES), max_sessions=7, admission_wait_ms=0)
    async with running_server(config) as server:
        async with server.dial(headers={"xi-api-key": ALICE}) as ws:
            for refused in (
                await post(server, ALICE),
                await dial_refused(server, SOCKET, **{"xi-api-key": ALICE}),
            ):
                assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
                assert detail_of(refused)["status"] == "too_many_concurrent_requests"
            async with http_client(server) as client:
                refused = await client.post(
                    "/v1/audio/speech",
                    json={"model": "tts-1", "voice": "alloy", "input": "Hi."},
                    headers={"authorization": f"Bearer {ALICE}"},
                )
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert refused.json()["error"]["code"] == "rate_limit_exceeded"
            async with server.dial() as late:
                await send(late, {"text": " ", "xi_api_key": ALICE})
                received, code = await receive_all(late)
            names = [one["error"] for one in received]
            assert (names, code) == (["too_many_concurrent_requests"], 1008)
            answer = await post(server, BOB)
            assert {
                "current-concurrent-requests": "1",
                "maximum-concurrent-requests": "7",
                "workspace-concurrent-requests": "2",
            }.items() <= dict(answer.headers).items()
            assert server.metric("csm_key_sessions", key="alice") == 1
            assert server.metric("csm_refusals_total", reason="TooManySessions") == 4
            await send(ws, HI, {"text": ""})
            assert (await receive_all(ws))[1] == 1000
        await until(lambda: server.metric("csm_key_sessions", key="alice") == 0)
        answer = await post(server, ALICE)
        assert answer.status_code == 200
        assert answer.headers["maximum-concurrent-requests"] == "1"


@pytest.mark.usefixtures("each_topology")
async def test_a_key_that_waits_for_its_own_session_takes_none_of_the_others(file: Path) -> None:
    gate = StepGate()
    config = replace(write(file, ENTRIES), max_sessions=2, admission_wait_ms=20_000)
    with trio.fail_after(30):
        async with serving(lambda: SineRunner(step_gate=gate), Config(server=config)) as server:
            async with trio.open_nursery() as nursery:
                answers: list[int] = []

                async def speak(key: str) -> None:
                    answers.append((await post(server, key)).status_code)

                nursery.start_soon(speak, ALICE)
                await gate.held()
                nursery.start_soon(speak, ALICE)
                await until(lambda: server.metric("csm_admissions_waiting") == 1)
                nursery.start_soon(speak, BOB)
                await until(lambda: server.metric("csm_sessions") == 2)
                gate.open()
            assert answers == [200, 200, 200]


@pytest.mark.usefixtures("each_topology", "short_error_to_close")
async def test_keys_are_read_again(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with running_server(write(file, ENTRIES)) as server:
        async with server.dial(headers={"xi-api-key": ALICE}) as ws:
            token = await issue_token(server, ALICE)
            write(file, [{"name": "carol", "key": "carol-key"}, *ENTRIES[1:]])
            reload()
            await until(lambda: server.state.shared.keys.names == {"carol", "bob"})
            assert [(await post(server, key)).status_code for key in ("carol-key", BOB)] == [
                200
            ] * 2
            assert (await post(server, ALICE)).status_code == 401
            async with server.dial(single_use_token=token) as refused:
                assert (await receive_all(refused))[1] == 1008
            await send(ws, HI, {"text": ""})
            assert (await receive_all(ws))[1] == 1000
        await until(lambda: not is_counted(server, "alice"))
        write(file, f'[{{"name": "dave", "key": "{SECRET}"')
        reload()
        await until(lambda: "stay as they are" in caplog.text)
        assert (await post(server, "carol-key")).status_code == 200
        write(file, [])
        reload()
        await until(lambda: not server.state.shared.keys.names)
        assert (await post(server, BOB)).status_code == 401
    for secret in (SECRET, ALICE, BOB, "carol-key"):
        assert secret not in caplog.text


def reload() -> None:
    os.kill(os.getpid(), signal.SIGHUP)


def is_counted(server: Server, name: str) -> bool:
    return any(
        one.get_sample_value("csm_key_sessions", {"key": name}) is not None
        for one in server.registries
    )


async def issue_token(server: Server, key: str) -> str:
    async with http_client(server) as client:
        answer = await client.post(
            "/v1/single-use-token/tts_websocket", headers={"xi-api-key": key}
        )
    return str(answer.json()["token"])


@pytest.mark.usefixtures("each_topology")
async def test_a_token_counts_to_the_key_that_issued_it(file: Path) -> None:
    config = replace(write(file, ENTRIES), admission_wait_ms=0)
    async with running_server(config) as server:
        tokens = [await issue_token(server, ALICE) for _ in range(2)]
        async with server.dial(single_use_token=tokens[0]):
            assert server.metric("csm_key_sessions", key="alice") == 1
            refused = await dial_refused(server, f"{SOCKET}?single_use_token={tokens[1]}")
            assert refused.status_code == 429


@pytest.mark.usefixtures("each_topology")
async def test_two_keys_share_no_previous_text(file: Path) -> None:
    runner = SineRunner()
    text = "The quick brown fox jumps over the dog."
    config = Config(server=write(file, ENTRIES))
    with trio.fail_after(30):
        async with serving(lambda: runner, config) as server:
            await post(server, ALICE, text=text)
            for key in (BOB, ALICE):
                await post(server, key, text="And on.", previous_text=text)
    lengths = [len(one.history) for one in runner.opened]
    assert lengths == [0, 0, 1]


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Let a test configure the root logger, and restore it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("own_logging")
async def test_the_log_names_a_key_and_shows_none(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("info", log_format="json")
    async with running_server(write(file, ENTRIES)) as server:
        for key in (ALICE, BOB):
            assert (await post(server, key)).status_code == 200
    logging.getLogger("csm_trio.test").error("%s %s", ALICE, BOB)
    lines = capsys.readouterr().err.splitlines()
    events = [json.loads(line) for line in lines]
    assert [one["key"] for one in events if "first_chunk" in one["message"]] == ["alice", "bob"]
    assert events[-1]["message"] == "[redacted] [redacted]"
