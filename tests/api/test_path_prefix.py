"""A path prefix: every endpoint below it, and none beside it but those for operators."""

from dataclasses import replace
from pathlib import Path

import pytest

from csm_trio.api.app import below_prefix
from csm_trio.config import SpeechConfig
from support.browser import open_page
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
)
from support.serving import TEST_SERVER, Topology, dial

PREFIX = "/speech/tts"
PREFIXED = replace(TEST_SERVER, path_prefix=PREFIX)


async def test_every_endpoint_is_below_the_prefix(each_topology: Topology) -> None:
    async with running_server(PREFIXED) as server, http_client(server) as client:
        for path in ("/", "/v1/voices", "/v2/voices", "/v1/models", "/healthz", "/metrics"):
            assert (await client.get(PREFIX + path)).status_code == 200
        assert (await client.post(f"{PREFIX}{SPEECH}/stream", json=HI)).status_code == 200
        audio = {"model": "tts-1", "voice": "alloy", "input": "Hi."}
        answer = await client.post(f"{PREFIX}/v1/audio/speech", json=audio)
        assert (answer.status_code, len(answer.content) > 0) == (200, True)
        refused = await client.post(f"{PREFIX}/v1/audio/speech", json={})
        assert refused.json()["error"]["code"] == "missing_required_parameter"


async def test_a_socket_is_served_below_the_prefix() -> None:
    async with running_server(PREFIXED) as server, dial(server.port, PREFIX + SOCKET) as ws:
        await send(ws, HI, {"text": ""})
        received, code = await receive_all(ws)
    assert (received[-1]["isFinal"], code) == (True, 1000)


async def test_beside_the_prefix_there_is_nothing() -> None:
    async with running_server(PREFIXED) as server, http_client(server) as client:
        for path in (
            "/",
            "/v1/voices",
            "/speech",
            "/speech/ttsx/v1/voices",
            f"/x{PREFIX}/v1/voices",
        ):
            assert detail_of(await client.get(path))["code"] == "not_found"
        assert (await client.post(SPEECH, json=HI)).status_code == 404
        assert (await dial_refused(server, SOCKET)).status_code == 404
        assert (await dial_refused(server, f"{PREFIX}x{SOCKET}")).status_code == 404


async def test_probes_answer_at_their_own_paths_too() -> None:
    async with running_server(PREFIXED) as server, http_client(server) as client:
        for path in ("/healthz", "/health", "/readyz", "/metrics"):
            assert (await client.get(path)).status_code == 200


async def test_a_path_that_lacks_its_slash_or_has_two_stays_below_the_prefix() -> None:
    async with running_server(PREFIXED) as server, http_client(server) as client:
        answer = await client.get(f"{PREFIX}?voice=a", follow_redirects=False)
        assert answer.status_code == 308
        assert answer.headers["location"] == f"{PREFIX}/?voice=a"
        assert (await client.get(PREFIX, follow_redirects=True)).status_code == 200
        assert (await client.get(f"{PREFIX}//v1/voices")).status_code == 200


async def test_keys_are_needed_below_the_prefix() -> None:
    locked = replace(PREFIXED, api_key=KEY)
    async with running_server(locked) as server, http_client(server) as client:
        for path in ("/v1/voices", "//v1/voices", "/v1//voices"):
            assert (await client.get(PREFIX + path)).status_code == 401
            answer = await client.get(
                PREFIX + path, headers={"xi-api-key": KEY}, follow_redirects=True
            )
            assert answer.status_code == 200
        upload = await client.post(f"{PREFIX}/v1/voices/add", files={"files": b"a"})
        assert upload.status_code == 401


async def test_an_upload_below_the_prefix_may_be_long(tmp_path: Path) -> None:
    speech = SpeechConfig(data_dir=tmp_path, voice_upload=True)
    async with running_server(PREFIXED, speech) as server, http_client(server) as client:
        files = {"files": bytes(2 << 20)}
        answer = await client.post(f"{PREFIX}/v1/voices/add", files=files)
        assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["body", "name"])


async def test_the_playground_finds_its_server_below_the_prefix() -> None:
    async with running_server(PREFIXED) as server, open_page() as page:
        await page.open(server.url(PREFIX))
        await page.until("document.querySelector('#voice').options.length > 0")
        await page.fill("#text", "Hi.")
        await page.click("#play")
        await page.until("document.querySelector('#status').textContent.startsWith('Played')")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/v1/voices/add", "/v1/voices/add"),
        ("/a/", "/"),
        ("/a", "/."),
        ("/ab/v1", "/."),
        ("/v1/voices/add", "/."),
        ("/readyz", "/readyz"),
        ("/a/readyz", "/readyz"),
    ],
)
def test_paths_below_a_prefix(path: str, expected: str) -> None:
    assert below_prefix(path, "/a") == expected
    assert below_prefix(path, "") == path
