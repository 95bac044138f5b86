"""The client's call always ends, and says why in one sentence."""

import json
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_websocket import WebSocketConnection, WebSocketRequest

from csm_trio.client import Call, Deltas, SpeechTarget
from csm_trio.errors import EngineBusy, InvalidRequest, MissingField, SpeechError, UnknownVoice
from csm_trio.protocol.elevenlabs.errors import rest_error, socket_error
from support.scripted_server import Script, all_text, close_code, next_text, scripted_server, spoken


async def text_of(*deltas: str) -> Deltas:
    for delta in deltas:
        yield delta


async def ignore(_: bytes) -> None:
    await trio.lowlevel.checkpoint()


async def failure(script: Script) -> str:
    async with scripted_server(script) as url:
        with pytest.raises(SpeechError) as caught:
            await Call(SpeechTarget(url)).speak(text_of("Hello."), ignore)
    return caught.value.message


async def reject(request: WebSocketRequest, *, status: int, body: bytes) -> None:
    await request.reject(status, body=body)


def body_of(error: SpeechError) -> bytes:
    return json.dumps(rest_error(error, request_id="r").body).encode()


# status, body, sentence
REFUSALS = [
    (
        404,
        body_of(UnknownVoice("bob")),
        "A voice with voice_id 'bob' was not found. (HTTP status 404)",
    ),
    (503, body_of(EngineBusy()), "The server is at capacity. (HTTP status 503)"),
    (422, body_of(MissingField("top_k")), "top_k: Field required (HTTP status 422)"),
    (
        422,
        body_of(InvalidRequest("top_k must be positive.", param="top_k")),
        "top_k must be positive. (HTTP status 422)",
    ),
    (401, b'{"detail": "Go\\u001b[2J\\naway"}', "Go [2J away (HTTP status 401)"),
    (404, b"<!doctype html>", "The server refused with HTTP status 404."),
    (404, b"", "The server refused with HTTP status 404."),
    (400, b"\xff[", "The server refused with HTTP status 400."),
    (400, b'{"detail": []}', "The server refused with HTTP status 400."),
]


@pytest.mark.parametrize(("status", "body", "sentence"), REFUSALS)
async def test_a_refused_upgrade_is_reported_in_one_sentence(
    status: int, body: bytes, sentence: str
) -> None:
    assert await failure(partial(reject, status=status, body=body)) == sentence


async def test_an_unreachable_server_is_reported_in_one_sentence() -> None:
    with trio.socket.socket() as unlistened:
        await unlistened.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{unlistened.getsockname()[1]}"
        with pytest.raises(SpeechError, match=rf"^Cannot connect to {url}: .*\.$"):
            await Call(SpeechTarget(url)).speak(text_of("Hello."), ignore)


async def test_an_upgrade_that_is_not_answered_times_out(mock_clock: MockClock) -> None:
    async def swallow(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await wait_all_tasks_blocked()
        mock_clock.jump(10)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, swallow, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        url = f"ws://127.0.0.1:{listener.socket.getsockname()[1]}"
        with pytest.raises(SpeechError, match="no WebSocket answer within 10 seconds"):
            await Call(SpeechTarget(url)).speak(text_of("Hello."), ignore)
        nursery.cancel_scope.cancel()


async def close_early(socket: WebSocketConnection) -> None:
    await socket.aclose(1000)


async def close_with_reason(socket: WebSocketConnection) -> None:
    await socket.aclose(1008, reason="Enough said.")


async def send_error(socket: WebSocketConnection) -> None:
    await socket.send_message(socket_error(UnknownVoice("bob")).to_text())


async def send_nonsense(socket: WebSocketConnection) -> None:
    await socket.send_message("[]")


async def send_bytes(socket: WebSocketConnection) -> None:
    await socket.send_message(b"{}")


async def send_bad_base64(socket: WebSocketConnection) -> None:
    await socket.send_message('{"audio": "?"}')


async def send_too_much(socket: WebSocketConnection) -> None:
    await socket.send_message("x" * ((16 << 20) + 1))


FAILURES = [
    (close_early, "The server closed the connection before the last audio (close code 1000)."),
    (close_with_reason, "Enough said."),
    (send_error, "A voice with voice_id bob does not exist."),
    (send_nonsense, "The server sent a message that cannot be read."),
    (send_bytes, "The server sent a message that cannot be read."),
    (send_bad_base64, "The server sent a message that cannot be read."),
    (send_too_much, "Exceeded maximum message size: 16777216 bytes"),
]


@pytest.mark.parametrize(("misbehave", "sentence"), FAILURES)
async def test_an_end_before_the_final_message_is_reported_in_one_sentence(
    misbehave: Callable[[WebSocketConnection], Awaitable[None]], sentence: str
) -> None:
    async def script(request: WebSocketRequest) -> None:
        socket = await request.accept()
        await all_text(socket)
        await socket.send_message(spoken(b"ab"))
        await misbehave(socket)
        await close_code(socket)

    assert await failure(script) == sentence


async def test_a_broken_connection_is_reported_in_one_sentence() -> None:
    async def script(request: WebSocketRequest) -> None:
        socket = await request.accept()
        await next_text(socket)
        await socket._stream.aclose()

    assert "close code 1006" in await failure(script)


async def test_an_error_ends_the_call_while_text_is_still_awaited() -> None:
    async def endless() -> Deltas:
        yield "Hello."
        await trio.sleep_forever()

    async def script(request: WebSocketRequest) -> None:
        socket = await request.accept()
        await send_error(socket)
        assert await next_text(socket) == "Hello."
        assert await close_code(socket) == 1000

    async with scripted_server(script) as url:
        with pytest.raises(SpeechError, match="bob does not exist"):
            await Call(SpeechTarget(url)).speak(endless(), ignore)


async def test_a_server_that_is_silent_after_the_last_text_times_out(
    mock_clock: MockClock,
) -> None:
    send_received, received = trio.open_memory_channel[bytes](0)

    async def script(request: WebSocketRequest) -> None:
        socket = await request.accept()
        await all_text(socket)
        for _ in range(3):  # every sign of life starts the wait anew
            await wait_all_tasks_blocked()
            mock_clock.jump(59)
            await socket.send_message(spoken(b"ab"))
            assert await received.receive() == b"ab"
        await wait_all_tasks_blocked()
        mock_clock.jump(60)
        await close_code(socket)

    async with scripted_server(script) as url:
        with pytest.raises(SpeechError, match=r"^The server sent nothing for 60 seconds\.$"):
            await Call(SpeechTarget(url)).speak(text_of("Hello."), send_received.send)


async def test_hanging_up_is_a_closing_handshake() -> None:
    speaking = trio.Event()
    codes = []

    async def script(request: WebSocketRequest) -> None:
        socket = await request.accept()
        await all_text(socket)
        await socket.send_message(spoken(b"ab"))
        codes.append(await close_code(socket))

    async def listen(_: bytes) -> None:
        speaking.set()

    async with scripted_server(script) as url, trio.open_nursery() as nursery:
        running = Call(SpeechTarget(url))
        nursery.start_soon(running.speak, text_of("Hello."), listen)
        await speaking.wait()
        running.hang_up()
    assert codes == [1000]


async def test_a_cancel_during_the_upgrade_closes_the_connection() -> None:
    dialed = trio.Event()

    async def script(request: WebSocketRequest) -> None:
        dialed.set()
        await trio.sleep_forever()

    async with scripted_server(script) as url, trio.open_nursery() as nursery:
        running = Call(SpeechTarget(url))
        nursery.start_soon(running.speak, text_of("Hello."), ignore)
        await dialed.wait()
        running.hang_up()
