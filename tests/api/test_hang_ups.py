"""Every way to hang up on a connection: its tasks, session and slot are released."""

import re
from contextlib import suppress

import pytest
import trio

from csm_trio.config import Config
from support.client_calls import assert_it_still_serves, until
from support.fakes import SineRunner
from support.serving import TEST_SERVER, serving
from tools.hang_ups import HANG_UPS, head

pytestmark = pytest.mark.usefixtures("each_topology")

AT_ONCE = 6
GUARD_S = 30.0


@pytest.mark.parametrize("kind", HANG_UPS)
async def test_a_hang_up_leaves_nothing(kind: str) -> None:
    runner = SineRunner(slots=4)
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner, Config(server=TEST_SERVER)) as server:
            idle = server.tasks()

            async def hang_up() -> None:
                stream = await trio.open_tcp_stream("127.0.0.1", server.port)
                with suppress(trio.BrokenResourceError):  # the server may end it first
                    await HANG_UPS[kind](stream)

            async with trio.open_nursery() as nursery:
                for _ in range(AT_ONCE):
                    nursery.start_soon(hang_up)
            await until(lambda: server.tasks() == idle)
            assert server.metric("csm_connections") == 0
            assert server.metric("csm_sessions") == 0
            assert server.metric("csm_slots_used") == 0
            assert server.state.engine.borrowed_slots == 0
            await assert_it_still_serves(server)


async def test_pipelined_requests_are_answered_in_order() -> None:
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner) as server:
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            async with stream:
                paths = ["/healthz", "/nowhere", "/readyz"]
                await stream.send_all(b"".join(head("GET", path) for path in paths))
                await stream.send_all(head("GET", "/healthz", "connection: close"))
                data = b"".join([chunk async for chunk in stream])
    assert re.findall(rb"HTTP/1.1 (\d+)", data) == [b"200", b"404", b"200", b"200"]
