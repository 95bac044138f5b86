"""Bare TCP connections: a client's protocol error ends its own connection only."""

import json

import pytest
import trio

from support.client_calls import (
    HI,
    SOCKET,
    SPEECH,
    UPGRADE,
    assert_it_still_serves,
    dial_refused,
    running_server,
    until,
)

PATIENCE_S = 5.0
EMPTY_FRAME = b"\x81\x80\0\0\0\0"


def request_head(method: str, path: str, **fields: str) -> bytes:
    lines = "".join(
        f"{name.replace('_', '-')}: {value}\r\n"
        for name, value in {"host": "test", **fields}.items()
    )
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()


async def read_to_the_end(stream: trio.SocketStream) -> bytes:
    """Return the bytes until the server closes the connection, which it must do soon."""
    data = b""
    with trio.move_on_after(PATIENCE_S) as patience:
        try:
            async for chunk in stream:
                data += chunk
        except trio.BrokenResourceError:
            pass  # closed before it read all of our bytes
    assert not patience.cancelled_caught, "the connection stays open"
    return data


@pytest.mark.parametrize("query", ["", "?output_format=none_such"])
@pytest.mark.parametrize("early", ["with the request", "before the answer", "after the answer"])
async def test_frames_before_the_upgrade_is_accepted_affect_no_other_client(
    query: str, early: str
) -> None:
    upgrade = request_head("GET", f"{SOCKET}{query}", **UPGRADE)
    async with running_server() as server:
        for _ in range(10):
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            async with stream:
                if early == "with the request":
                    await stream.send_all(upgrade + EMPTY_FRAME)
                    assert (await read_to_the_end(stream)).startswith(b"HTTP/1.1 400 ")
                    continue
                await stream.send_all(upgrade)
                if early == "after the answer":
                    await stream.receive_some()
                try:
                    await stream.send_all(EMPTY_FRAME)
                    await stream.send_all(EMPTY_FRAME)
                except trio.BrokenResourceError:
                    continue
                if query:
                    await read_to_the_end(stream)
        await until(lambda: server.metric("csm_sessions") == 0)
        await assert_it_still_serves(server)


async def test_a_refused_upgrade_says_that_the_connection_ends() -> None:
    async with running_server() as server:
        answer = await dial_refused(server, f"{SOCKET}?output_format=none_such")
    assert (answer.status_code, answer.headers["connection"]) == (403, "close")


@pytest.mark.parametrize(
    "data",
    [
        request_head("GET", SOCKET, upgrade="websocket", connection="upgrade"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["an upgrade without a key", "HTTP/2 and no request"],
)
async def test_a_silent_connection_is_closed(data: bytes) -> None:
    async with running_server() as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream:
            await stream.send_all(data)
            await read_to_the_end(stream)


# status, method, path, body
ERRORS: list[tuple[int, str, str, object]] = [
    (403, "POST", f"{SPEECH}?output_format=none_such", HI),
    (403, "POST", "/v1/voices/add", {}),
    (404, "POST", "/v1/text-to-speech/nobody", HI),
    (404, "POST", "/v1/none-such", HI),
    (405, "DELETE", "/v1/models", {}),
    (413, "POST", SPEECH, {"text": "a" * 20_000}),
    (413, "POST", SPEECH, {"text": "a" * (2 << 20)}),
    (422, "POST", SPEECH, {"text": 5}),
    (400, "POST", "/v1/audio/speech", {"input": 5}),
]


@pytest.mark.parametrize(("status", "method", "path", "body"), ERRORS)
async def test_after_an_error_the_connection_serves_the_next_request(
    status: int, method: str, path: str, body: object
) -> None:
    payload = json.dumps(body).encode()
    async with running_server() as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream:
            length = str(len(payload))
            await stream.send_all(request_head(method, path, content_length=length) + payload)
            await stream.send_all(request_head("GET", "/healthz", connection="close"))
            data = await read_to_the_end(stream)
    assert data.startswith(f"HTTP/1.1 {status} ".encode())
    assert data.endswith(b'{"status":"ok"}\n')
