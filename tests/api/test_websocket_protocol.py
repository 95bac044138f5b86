"""RFC 6455 on the server's own WebSocket: close codes, control frames, fragments, handshake."""

import json
import struct

import pytest
import trio

from csm_trio.api.connection_limits import ConnectionLimits
from support.client_calls import GUARD_S, assert_it_still_serves, until
from support.fakes import SineRunner
from support.serving import Server, serving
from tools.hang_ups import UPGRADE, frame, head, message

EOS = message(text="")


def close(code: int | None = None, reason: bytes = b"") -> bytes:
    return frame((b"" if code is None else struct.pack("!H", code)) + reason, opcode=8)


async def exchange(server: Server, *data: bytes, upgrade: bytes = UPGRADE) -> bytes:
    """Send an upgrade request, then frames; return all that comes until the server ends."""
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    async with stream:
        await stream.send_all(upgrade)
        received = await stream.receive_some(65536)
        if received.startswith(b"HTTP/1.1 101 "):
            received = received.partition(b"\r\n\r\n")[2]
        try:
            for one in data:
                await stream.send_all(one)
            async for chunk in stream:
                received += chunk
        except trio.BrokenResourceError:
            pass
        return received


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Return the opcode and payload of the server's frames, which are whole and not masked."""
    found = []
    while data:
        size, start = data[1], 2
        if size == 126:
            size, start = struct.unpack("!H", data[2:4])[0], 4
        elif size == 127:
            size, start = struct.unpack("!Q", data[2:10])[0], 10
        assert data[0] & 0x80
        found.append((data[0] & 0x0F, data[start : start + size]))
        data = data[start + size :]
    return found


def close_code(data: bytes) -> int | None:
    """Return the code of the close frame, which must be the last frame."""
    opcode, payload = frames(data)[-1]
    assert opcode == 8
    return struct.unpack("!H", payload[:2])[0] if payload else None


PROTOCOL_ERRORS = {
    "not masked": (b"\x81\x02{}", 1002),
    "reserved bit 1": (b"\xc1\x80\0\0\0\0", 1002),
    "reserved bit 2": (b"\xa1\x80\0\0\0\0", 1002),
    "reserved data opcode": (frame(b"x", opcode=3), 1002),
    "reserved control opcode": (frame(b"x", opcode=11), 1002),
    "fragmented ping": (frame(b"x", opcode=9, final=False), 1002),
    "ping of 126 bytes": (frame(b"x" * 126, opcode=9), 1002),
    "continuation of nothing": (frame(b"x", opcode=0), 1002),
    "new message within a message": (frame(b"a", final=False) + frame(b"b"), 1002),
    "length in more bytes than needed": (b"\x81\xfe\0\x01\0\0\0\0x", 1002),
    "no UTF-8": (frame(b"\xce\xba\xe1\xbd\xff"), 1007),
    "no UTF-8 in the second fragment": (
        frame(b"\xce", final=False) + frame(b"\xff", opcode=0),
        1007,
    ),
    "half a character at the end": (frame(b"\xce"), 1007),
    "close of one byte": (frame(b"\x03", opcode=8), 1002),
    "close reason without UTF-8": (close(1000, b"\xff"), 1007),
    "message too long": (
        frame(bytes(60_000), final=False) * 1 + frame(bytes(60_000), opcode=0),
        1009,
    ),
}


# As in Autobahn's cases 7.9 and 6.
INVALID_CODES = (0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999)
INVALID_UTF8 = (
    b"\xf8\x88\x80\x80\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xc0\xaf",
    b"\xe0\x80\xaf",
    b"\x80",
    b"a\xbf",
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
)
PROTOCOL_ERRORS |= {f"close code {code}": (close(code), 1002) for code in INVALID_CODES}
PROTOCOL_ERRORS |= {f"no UTF-8: {data.hex()}": (frame(data), 1007) for data in INVALID_UTF8}


@pytest.mark.parametrize("kind", PROTOCOL_ERRORS)
async def test_a_protocol_error_is_answered_with_its_close_code(kind: str) -> None:
    data, code = PROTOCOL_ERRORS[kind]
    limits = ConnectionLimits(max_message_bytes=100_000, close_timeout_s=0.05)
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner, limits=limits) as server:
            received = await exchange(server, data)
            assert [opcode for opcode, _ in frames(received)] == [8]
            assert close_code(received) == code
            await until(lambda: server.metric("csm_sessions") == 0)
            assert server.metric("csm_socket_closes_total", code=str(code)) == 1
            await assert_it_still_serves(server)


VALID_CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)


@pytest.mark.parametrize("code", [*VALID_CODES, None])
async def test_a_close_is_answered_with_its_own_code(code: int | None) -> None:
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner) as server:
            assert close_code(await exchange(server, close(code))) == code


async def test_a_ping_is_answered_between_the_frames_of_a_message() -> None:
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner) as server:
            parts = (
                frame(b'{"text": "Hi', final=False),
                frame(b"ping", opcode=9),
                frame(b"unasked", opcode=10),
                frame(b'."}', opcode=0, final=False) + frame(b"", opcode=0),
                EOS,
            )
            received = frames(await exchange(server, *parts))
    assert (10, b"ping") in received
    assert any(b'"audio"' in payload for opcode, payload in received if opcode == 1)
    assert received[-1] == (8, struct.pack("!H", 1000))


VALID_UTF8 = "κόσμε\x00\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U0010ffff"


@pytest.mark.usefixtures("short_error_to_close")
@pytest.mark.parametrize("at_once", [True, False])
async def test_every_character_of_unicode_is_accepted(at_once: bool) -> None:
    """Fragments may divide a character (Autobahn's cases 6.2 to 6.23)."""
    text = json.dumps({"text": VALID_UTF8, "flush": True}, ensure_ascii=False).encode()
    parts = [text] if at_once else [text[at : at + 1] for at in range(len(text))]
    frames_in = b"".join(
        frame(part, opcode=1 if at == 0 else 0, final=at == len(parts) - 1)
        for at, part in enumerate(parts)
    )
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner) as server:
            assert close_code(await exchange(server, frames_in, EOS)) == 1000


async def test_a_message_without_end_is_closed_and_not_stored() -> None:
    limits = ConnectionLimits(max_message_bytes=1_000, close_timeout_s=0.05)
    start = frame(b'{"text": "', final=False)
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner, limits=limits) as server:
            received = await exchange(
                server, start, *[frame(b"a" * 500, opcode=0, final=False)] * 50
            )
            assert close_code(received) == 1009
            await until(lambda: server.metric("csm_connections") == 0)


HANDSHAKES = {
    "version 8": (UPGRADE.replace(b"version: 13", b"version: 8"), 426),
    "no version": (UPGRADE.replace(b"sec-websocket-version: 13\r\n", b""), 400),
    "no key": (UPGRADE.replace(b"sec-websocket-key", b"x-key"), 400),
    "key of 3 bytes": (UPGRADE.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"AAAA"), 400),
    "key that is no base64": (UPGRADE.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"!"), 400),
    "HTTP/1.0": (UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
}


@pytest.mark.parametrize("kind", HANDSHAKES)
async def test_a_wrong_handshake_is_refused(kind: str) -> None:
    upgrade, status = HANDSHAKES[kind]
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner) as server:
            answer = await exchange(server, upgrade=upgrade)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert (b"sec-websocket-version: 13" in answer) == (status == 426)
    assert b"connection: close" in answer.lower()


async def test_another_upgrade_is_ignored() -> None:
    h2c = head("GET", "/healthz", "connection: upgrade, http2-settings", "upgrade: h2c")
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner) as server:
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            async with stream:
                await stream.send_all(h2c)
                assert (await stream.receive_some(65536)).startswith(b"HTTP/1.1 200 ")


async def test_a_socket_that_ends_without_a_close_frame_is_counted() -> None:
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner) as server:
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            await stream.send_all(UPGRADE)
            await stream.receive_some(65536)
            await stream.aclose()
            await until(lambda: server.metric("csm_socket_closes_total", code="none") == 1)
