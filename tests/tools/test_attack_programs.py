"""The programs that attack a server of their own: some hang-ups, and the soak by its marker.

The short forms of the others stand in tests/api: connection limits and admission.
"""

import sys

import pytest
import trio

from support.server_process import server_process
from tools import hang_ups, soak

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
def test_some_hang_ups_leave_nothing() -> None:
    with server_process("--cpu", "--pool-size", "4") as server:
        trio.run(hang_ups.attack, server, 40, 16, 0)
        before = trio.run(hang_ups.settle, server, hang_ups.Held.of(server))
        trio.run(hang_ups.attack, server, 40, 16, 1)
        assert trio.run(hang_ups.settle, server, before) == before
        assert not [line for line in server.log if "Traceback" in line]


@linux
@pytest.mark.soak
def test_twenty_minutes_at_full_load() -> None:
    assert soak.main([]) == 0
