"""Pages of other origins: CORS headers, and who may open a socket."""

from dataclasses import replace

import pytest

from csm_trio.api.responses import check_origin
from csm_trio.errors import OriginRefused
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
from support.serving import TEST_SERVER

APP, OTHER = "https://app.example", "https://other.example"
LISTED = replace(TEST_SERVER, cors_origins=(APP, "http://localhost:3000"))
ALLOW = "access-control-allow-origin"


async def test_listed_origins_alone_get_cors_headers() -> None:
    async with running_server(LISTED) as server, http_client(server) as client:
        for origin in (APP, "http://localhost:3000"):
            answer = await client.post(f"{SPEECH}/stream", json=HI, headers={"origin": origin})
            assert (answer.headers[ALLOW], answer.headers["vary"]) == (origin, "Origin")
            assert "current-concurrent-requests" in answer.headers["access-control-expose-headers"]
        for origin in (OTHER, "null", "http://app.example", f"{APP}.other", f"{APP}:444"):
            headers = {"origin": origin, "access-control-request-method": "POST"}
            for answer in (
                await client.options(f"{SPEECH}/stream", headers=headers),
                await client.get("/v1/voices", headers={"origin": origin}),
                await client.get("/v1/nowhere", headers={"origin": origin}),
            ):
                assert not [name for name in answer.headers if name.startswith("access-control")]
                assert answer.headers["vary"] == "Origin"
        assert (await client.get("/v1/voices")).headers["vary"] == "Origin"


async def test_a_listed_origin_changes_nothing_without_a_key() -> None:
    path = "/v1/voices/default/settings/edit"
    headers = {"origin": APP, "access-control-request-method": "POST"}
    async with running_server(LISTED) as server, http_client(server) as client:
        assert ALLOW not in (await client.options(path, headers=headers)).headers
    locked = replace(LISTED, api_key=KEY)
    async with running_server(locked) as server, http_client(server) as client:
        assert (await client.options(path, headers=headers)).headers[ALLOW] == APP


@pytest.mark.parametrize("path", [SOCKET, "/v1/text-to-dialogue/multi-stream-input"])
async def test_a_page_of_another_origin_opens_no_socket(path: str) -> None:
    async with running_server(replace(LISTED, api_key=KEY)) as server:
        for headers in ({}, {"xi-api-key": KEY}):
            refused = await dial_refused(server, path, origin=OTHER, **headers)
            assert (refused.status_code, detail_of(refused)["status"]) == (403, "forbidden")


async def test_listed_origins_the_servers_own_and_programs_open_sockets() -> None:
    async with running_server(LISTED) as server:
        for headers in ({}, {"origin": APP}, {"origin": server.url()}):
            async with server.dial(headers=headers) as ws:
                await send(ws, HI, {"text": ""})
                assert (await receive_all(ws))[1] == 1000


async def test_by_default_every_page_opens_sockets() -> None:
    async with running_server() as server, server.dial(headers={"origin": OTHER}) as ws:
        await send(ws, HI, {"text": ""})
        assert (await receive_all(ws))[1] == 1000


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (APP, "app.example:8080"),
        ("https://tts.example", "TTS.example"),
        ("http://[::1]:8080", "[::1]:8080"),
        (None, "tts.example"),
    ],
)
def test_origins_that_are_let_in(origin: str | None, host: str) -> None:
    check_origin(origin, host, (APP,))


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        OTHER,
        "https://tts.example.other",
        "https://tts.example:81",
        "http://[",
        "file://",
    ],
)
def test_origins_that_are_not(origin: str) -> None:
    with pytest.raises(OriginRefused):
        check_origin(origin, "tts.example", (APP,))
