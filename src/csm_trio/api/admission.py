"""Admission control: the limit of concurrent sessions, the bounded wait for one, and the shutdown.

A client that hangs up and calls again at once finds its own session still ending: admission waits
a moment for it, first come, first served.
"""

from collections.abc import Hashable
from types import TracebackType
from typing import Protocol

import trio

from csm_trio.errors import EngineBusy, SpeechError
from csm_trio.telemetry import Metrics

MIN_WAITING = 16
"""Requests that may wait for a session on the smallest server; a larger one lets as many wait as
it has sessions."""


class SessionLease:
    """The right to one session; leaving the `with` block releases it."""

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._admission.release(self)


class Sessions(Protocol):
    """The sessions of a whole server, of which there is a limited number."""

    limit: int

    @property
    def open_sessions(self) -> int:
        """How many sessions are open, as far as this process knows."""

    async def acquire(self, lease: Hashable) -> None:
        """Take a session; raise EngineBusy where none ends in time, or too many wait."""

    def release(self, lease: Hashable) -> None:
        """Return a session."""


class LocalSessions:
    """Sessions counted in this process.

    `wait_s` is how long a request may wait for a session that ends.
    """

    def __init__(self, limit: int, metrics: Metrics, *, wait_s: float = 0.0) -> None:
        self.limit = limit
        self._wait_s = wait_s
        self._metrics = metrics
        self._limiter = trio.CapacityLimiter(limit)
        metrics.sessions_limit.set(limit)

    @property
    def open_sessions(self) -> int:
        """How many sessions are open."""
        return self._limiter.borrowed_tokens

    async def acquire(self, lease: Hashable) -> None:
        """Take a session; raise EngineBusy where none ends in time, or too many wait."""
        waiting = self._limiter.statistics().tasks_waiting
        if self._limiter.available_tokens < 1 and waiting >= max(MIN_WAITING, self.limit):
            raise EngineBusy
        try:
            self._limiter.acquire_on_behalf_of_nowait(lease)
        except trio.WouldBlock:
            with self._metrics.admissions_waiting.track_inprogress():
                with trio.move_on_after(self._wait_s) as waited:
                    await self._limiter.acquire_on_behalf_of(lease)
                if waited.cancelled_caught:
                    raise EngineBusy from None
        self._metrics.sessions.set(self.open_sessions)

    def release(self, lease: Hashable) -> None:
        """Return a session."""
        self._limiter.release_on_behalf_of(lease)
        self._metrics.sessions.set(self.open_sessions)


class Admission:
    """Admits sessions (sockets and REST requests) of this process, until the drain begins."""

    def __init__(self, sessions: Sessions) -> None:
        self.drain_begun = trio.Event()
        self.aborted = trio.Event()
        self._sessions = sessions
        self._open = 0
        self._all_ended = trio.Event()
        self._abort_error: SpeechError | None = None

    @property
    def limit(self) -> int:
        """Maximum of concurrent sessions."""
        return self._sessions.limit

    @property
    def open_sessions(self) -> int:
        """How many sessions of the server are open."""
        return self._sessions.open_sessions

    @property
    def draining(self) -> bool:
        """Whether every new session is refused."""
        return self.drain_begun.is_set()

    @property
    def cancel_reason(self) -> str:
        """The metric label of a session that is cancelled from outside."""
        return "shutdown" if self.draining else "hang_up"

    async def admit(self) -> SessionLease:
        """Return a lease, to be entered at once.

        Raises EngineBusy in a drain, where no session ends in time, and where too many wait.
        """
        self._check_open()
        lease = SessionLease(self)
        await self._sessions.acquire(lease)
        self._open += 1
        if self.draining:
            self.release(lease)
        self._check_open()
        return lease

    async def drain(self) -> None:
        """Refuse every new session; return when the last open one has ended."""
        self.drain_begun.set()
        if self._open:
            await self._all_ended.wait()

    def abort(self, error: SpeechError) -> None:
        """End every session now with `error`, for its client; only the first call counts."""
        self.drain_begun.set()
        if not self.aborted.is_set():
            self._abort_error = error
            self.aborted.set()

    @property
    def abort_error(self) -> SpeechError:
        """The error that ends every session, once `aborted` is set."""
        assert self._abort_error is not None
        return self._abort_error

    def release(self, lease: SessionLease) -> None:
        """Return a session; its lease does so."""
        self._open -= 1
        self._sessions.release(lease)
        if self.draining and not self._open:
            self._all_ended.set()

    def _check_open(self) -> None:
        if self._abort_error is not None:
            raise self._abort_error
        if self.draining:
            raise EngineBusy("The server is shutting down.", retry_after_s=5)
