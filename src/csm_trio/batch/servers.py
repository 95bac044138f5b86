"""The servers of a batch: how many requests each may get now, and which are left out.

A batch uses the sessions that a server has free, and leaves one in eight, at least one, to live
calls, as long as it has one request itself. A server that does not answer gets none until it does.
"""

import math
import random
from collections.abc import Awaitable, Callable, Sequence

import trio

from csm_trio.batch.http_exchange import AnswerLost, ServerUnreachable
from csm_trio.batch.speech_exchange import SessionCount

Probe = Callable[[str], Awaitable[SessionCount | None]]

_SESSIONS_PER_SPARE = 8
_PROBE_S = 1.0
_MAX_DEAD_PROBE_S = 5.0
# One probe may fail on a busy machine.
_FAILED_PROBES_OF_DEAD = 3
# A server that shuts down takes no connection, but finishes what it has.
_ABANDON_S = 30.0


class NoServer(Exception):
    """No server can be used any more; the message is the last one's problem."""


class Server:
    """One server: its requests in flight, its sessions as last seen, and whether it is alive."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.alive = False
        self.refused = False
        self.has_metrics = False
        self.problem = "no answer yet"
        self.in_flight = 0
        self.paused_until_s = -math.inf
        # Of a server that publishes no count: grows by one with each answer, halves when busy.
        self._allowed = 1.0
        self._sessions: SessionCount | None = None
        self._others = 0
        self._requests: set[trio.CancelScope] = set()

    @property
    def capacity(self) -> int:
        """How many requests it may have in flight now, by its free sessions."""
        if self._sessions is None:
            return max(1, int(self._allowed))
        limit = self._sessions.limit
        free = limit - self._others
        spare = 0 if limit == 1 else -(-limit // _SESSIONS_PER_SPARE)
        return min(max(1, free - spare), free)

    def observe(self, sessions: SessionCount, *, own: int) -> None:
        """Note its sessions, of which `own` are this batch's."""
        self._sessions = sessions
        self._others = max(0, sessions.open - own)

    def note_speech(self, sessions: SessionCount | None, *, own: int) -> None:
        """Note a good answer and its headers, which count where the server has no metrics.

        A server without either may get one request more.
        """
        if sessions is not None and not self.has_metrics:
            self.observe(sessions, own=own)
        self._allowed = max(self._allowed, self.in_flight + 1.0)

    def pause(self, now_s: float, retry_after_s: float) -> None:
        """Send it nothing for that long, with jitter, and then less at once."""
        wait_s = retry_after_s * random.uniform(1.0, 1.5)
        self.paused_until_s = max(self.paused_until_s, now_s + wait_s)
        self._allowed = max(1.0, self._allowed / 2)

    def fail(self, problem: str) -> None:
        """Leave it out until it answers again; requests in flight go on."""
        self.alive = False
        self.problem = problem

    def abandon(self) -> None:
        """Give up its requests in flight."""
        for request in self._requests:
            request.cancel()

    def refuse(self, problem: str) -> None:
        """Leave it out for good."""
        self.refused = True
        self.fail(problem)

    async def guard(self, request: Callable[[], Awaitable[None]]) -> None:
        """Run a request; raise `AnswerLost` where it is given up."""
        with trio.CancelScope() as scope:
            self._requests.add(scope)
            try:
                await request()
            finally:
                self._requests.discard(scope)
        if scope.cancelled_caught:
            raise AnswerLost(self.problem)


class ServerPool:
    """Shares the requests of a batch over its servers, the freest first."""

    def __init__(self, base_urls: Sequence[str], probe: Probe, *, patience_s: float) -> None:
        self.servers = [Server(url) for url in dict.fromkeys(base_urls)]
        self._probe = probe
        self._patience_s = patience_s
        self._last_alive_s = math.inf
        self._changed = trio.Event()

    async def watch(self) -> None:
        """Probe every server until cancelled: its sessions while it lives, else whether it does."""
        self._last_alive_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            for server in self.servers:
                nursery.start_soon(self._watch_one, server)

    async def acquire(self) -> Server:
        """Wait until a server may get another request, and count it; `release` must follow.

        Raises `NoServer` where none has lived for `patience_s`, or all refuse.
        """
        while True:
            now_s = trio.current_time()
            usable = [server for server in self.servers if server.alive]
            ready = [
                server
                for server in usable
                if server.paused_until_s <= now_s and server.in_flight < server.capacity
            ]
            if ready:
                server = max(ready, key=lambda one: (one.capacity - one.in_flight) / one.capacity)
                server.in_flight += 1
                return server
            until_s = [one.paused_until_s for one in usable if one.paused_until_s > now_s]
            if usable:
                self._last_alive_s = now_s
            else:
                self._check_patience(now_s)
                until_s = [self._last_alive_s + self._patience_s]
            with trio.move_on_at(min(until_s, default=math.inf)):
                await self._changed.wait()

    def release(self, server: Server) -> None:
        """Count a request as ended, however it ended."""
        server.in_flight -= 1
        self.notify()

    def notify(self) -> None:
        """Have waiting items look again: a server has changed."""
        self._changed.set()
        self._changed = trio.Event()

    def problem(self) -> str:
        """Return why no server can be used; empty where one can."""
        if any(server.alive for server in self.servers):
            return ""
        return "; ".join(f"{server.base_url}: {server.problem}" for server in self.servers)

    def _check_patience(self, now_s: float) -> None:
        if all(server.refused for server in self.servers):
            raise NoServer(self.problem())
        if now_s >= self._last_alive_s + self._patience_s:
            raise NoServer(f"no server for {self._patience_s:g} s: {self.problem()}")

    async def _watch_one(self, server: Server) -> None:
        failures, answered_s = 0, trio.current_time()
        while not server.refused:
            own = server.in_flight
            try:
                sessions = await self._probe(server.base_url)
            except (ServerUnreachable, AnswerLost) as error:
                failures += 1
                unreachable = isinstance(error, ServerUnreachable)
                if unreachable or not server.alive or failures >= _FAILED_PROBES_OF_DEAD:
                    server.fail(str(error))
                if trio.current_time() > answered_s + _ABANDON_S:
                    server.abandon()
            else:
                failures, answered_s = 0, trio.current_time()
                server.has_metrics = sessions is not None
                if sessions is not None:
                    server.observe(sessions, own=max(own, server.in_flight))
                server.alive = not server.refused
                self._last_alive_s = trio.current_time()
            self.notify()
            longest_s = _PROBE_S if server.alive else min(_MAX_DEAD_PROBE_S, 0.2 * 2**failures)
            await trio.sleep(longest_s * random.uniform(0.5, 1.0))
