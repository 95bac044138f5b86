"""The input budget of a connection: when reading pauses, and what a pause must not hide."""

import socket

import pytest
import trio
from trio.testing import MockClock

from csm_trio.api.client_socket import ClientGone, ClientSocket
from csm_trio.api.connection_limits import ConnectionLimits, EmptyRecords, InputBudget
from support.client_calls import GUARD_S, assert_it_still_serves, until
from support.fakes import SineRunner
from support.serving import serving
from tools.hang_ups import UPGRADE, frame, head, message

LIMITS = ConnectionLimits(
    events_per_s=10, burst_events=20, bytes_per_s=1_000, burst_bytes=5_000, close_timeout_s=0.05
)


def test_a_burst_is_free_and_its_excess_waits() -> None:
    budget = InputBudget(LIMITS)
    budget.charge(100.0, events=20, n_bytes=5_000)
    assert budget.wait_s == 0
    budget.charge(100.0, events=5)
    assert budget.wait_s == pytest.approx(0.5)
    budget.charge(100.0, n_bytes=2_000)
    assert budget.wait_s == pytest.approx(2.0), "the longer of both waits"


def test_the_budget_grows_with_time_up_to_the_burst() -> None:
    budget = InputBudget(LIMITS)
    budget.charge(100.0, events=30)
    budget.charge(100.5)
    assert budget.wait_s == pytest.approx(0.5)
    budget.charge(1_000.0)
    budget.charge(1_000.0, events=20)
    assert budget.wait_s == 0
    budget.charge(1_000.0, events=1)
    assert budget.wait_s == pytest.approx(0.1)


FRAGMENT = frame(b"", opcode=0, final=False)
CHUNKED = head("POST", "/v1/text-to-speech/default", "transfer-encoding: chunked")
# What opens the connection, whether it is answered, and what follows.
FLOODS = {
    "messages": (UPGRADE, True, 3_000 * message(text=" ")),
    "pings": (UPGRADE, True, 3_000 * frame(b"p", opcode=9)),
    "empty fragments": (
        UPGRADE,
        True,
        frame(b"", final=False) + 3_000 * frame(b"", opcode=0, final=False),
    ),
    "requests": (head("GET", "/healthz"), True, 500 * head("GET", "/healthz")),
    "chunks of a body": (CHUNKED, False, 3_000 * b"1\r\na\r\n"),
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_hang_up_is_noticed_while_a_flood_waits(kind: str) -> None:
    """To read all of it would take minutes at this budget."""
    opening, is_answered, flood = FLOODS[kind]
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner, limits=LIMITS) as server:
            idle = server.tasks()
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            async with stream:
                await stream.send_all(opening)
                if is_answered:
                    assert await stream.receive_some(65536)
                await stream.send_all(flood)
                await until(lambda: server.metric("csm_connections") == 1)
            await until(lambda: server.tasks() == idle)
            assert server.metric("csm_sessions") == 0


async def test_a_flood_leaves_other_connections_their_budget() -> None:
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner, limits=ConnectionLimits()) as server:
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            async with stream:
                opening, _, flood = FLOODS["messages"]
                await stream.send_all(opening)
                await stream.receive_some(65536)
                await stream.send_all(flood)
                for _ in range(3):
                    await assert_it_still_serves(server)


async def test_bytes_that_were_read_at_a_cancel_are_returned_by_the_next_read(
    autojump_clock: MockClock,
) -> None:
    """The next request of a kept connection may be read just when the answer is complete."""
    theirs, ours = socket.socketpair()
    async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
        client = ClientSocket(stream, LIMITS)
        with theirs:
            theirs.sendall(b"a" * 6_000)
            with trio.move_on_after(0.5) as cancelled:
                await client.receive()
            assert cancelled.cancelled_caught
            assert await client.receive() == b"a" * 6_000
            with trio.CancelScope() as scope:
                theirs.sendall(b"next")
                scope.cancel()
                await client.receive()
            assert await client.receive() == b"next"
        with pytest.raises(ClientGone):
            await client.receive()


async def test_every_request_of_a_kept_connection_is_answered() -> None:
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner, limits=ConnectionLimits(events_per_s=1e9)) as server:
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            async with stream:
                for _ in range(300):
                    await stream.send_all(head("GET", "/healthz"))
                    received = b""
                    while not received.endswith(b'{"status":"ok"}\n'):
                        received += await stream.receive_some(65536)


def test_records_of_tls_without_content_are_events() -> None:
    records = EmptyRecords()
    events = sum(records.add_read(16 << 10) for _ in range(64))
    assert events == pytest.approx(((63 << 14) - (24 << 10)) / 27)


@pytest.mark.parametrize("content_bytes", [1, 50, 1_400, 16 << 10])
def test_records_with_content_are_no_others(content_bytes: int) -> None:
    records = EmptyRecords()
    assert records.add_read(4_000) == 0  # the handshake
    for _ in range(1_000):
        left_bytes = content_bytes + 85
        while left_bytes > 0:  # in segments
            assert records.add_read(min(left_bytes, 1_400)) == 0
            left_bytes -= 1_400
        records.add_content(content_bytes)
