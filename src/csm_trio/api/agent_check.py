"""HAProxy's agent check: a port that tells each connection, in one line, how much is free.

The answers are those of HAProxy's configuration manual, keyword `agent-check`.
"""

import math
from collections.abc import Awaitable, Callable
from typing import NoReturn

import trio

from csm_trio.api.admission import Sessions
from csm_trio.api.connections import accept_next
from csm_trio.telemetry import Metrics

_POLL_S = 0.25
"""Seconds between two questions to the engine; connections ask it nothing."""
_PAUSE_S = 0.005
"""Seconds between two connections, so that many of them take no time from calls."""
_SEND_S = 1.0


class AgentCheck:
    """What the agent port answers.

    `count_used_slots` returns how many slots hold an utterance, or None where the step loop does
    not answer.
    """

    def __init__(
        self,
        sessions: Sessions,
        slots: int,
        *,
        is_draining: Callable[[], bool],
        count_used_slots: Callable[[], Awaitable[int | None]],
    ) -> None:
        self._sessions = sessions
        self._slots = slots
        self._is_draining = is_draining
        self._count_used_slots = count_used_slots
        self._used_slots: int | None = 0

    @property
    def answer(self) -> str:
        """The line for HAProxy, without its line end.

        `up N% ready`: N is the free share of sessions or of slots, the smaller one, and at least 1,
        since a weight of 0 would keep calls away until the next check. `ready` ends the drain of a
        server that this one has replaced.
        """
        if self._is_draining():
            return "drain"
        if self._used_slots is None:
            return "down"
        free = min(
            1 - self._sessions.open_sessions / self._sessions.limit,
            1 - self._used_slots / self._slots,
        )
        return f"up {max(1, math.floor(100 * free + 1e-9))}% ready"

    async def run(self, listener: trio.SocketListener, metrics: Metrics) -> NoReturn:
        """Answer every connection and close it; nothing is read."""
        async with listener, trio.open_nursery() as nursery:
            self._used_slots = await self._count_used_slots()
            nursery.start_soon(self._poll)
            while True:
                stream = await accept_next(listener, metrics.accept_errors.inc)
                await self._send_answer(stream)
                await trio.sleep(_PAUSE_S)

    async def _send_answer(self, stream: trio.SocketStream) -> None:
        async with stream:
            with trio.move_on_after(_SEND_S):
                try:
                    await stream.send_all(f"{self.answer}\n".encode())
                except trio.BrokenResourceError:
                    return  # the client is gone

    async def _poll(self) -> NoReturn:
        while True:
            await trio.sleep(_POLL_S)
            self._used_slots = await self._count_used_slots()
