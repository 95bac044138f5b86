"""Admission control: the limit of concurrent sessions, the bounded wait for one, and the shutdown.

A client that hangs up and calls again at once finds its own session still ending: admission waits
a moment for it, first come, first served.
"""

from types import TracebackType

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
        self._admission._release(self)


class Admission:
    """Admits sessions (sockets and REST requests) up to a limit, until the drain begins.

    `wait_s` is how long a request may wait for a session that ends.
    """

    def __init__(self, limit: int, metrics: Metrics, *, wait_s: float = 0.0) -> None:
        self.limit = limit
        self.drain_begun = trio.Event()
        self.aborted = trio.Event()
        self._wait_s = wait_s
        self._metrics = metrics
        self._sessions = trio.CapacityLimiter(limit)
        self._all_ended = trio.Event()
        self._abort_error: SpeechError | None = None
        metrics.sessions_limit.set(limit)

    @property
    def open_sessions(self) -> int:
        """How many sessions are open."""
        return self._sessions.borrowed_tokens

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

        Raises EngineBusy in a drain, where no session ends within `wait_s`, and where too many
        wait.
        """
        self._check_open()
        lease, waiting = SessionLease(self), self._sessions.statistics().tasks_waiting
        if self._sessions.available_tokens < 1 and waiting >= max(MIN_WAITING, self.limit):
            raise EngineBusy
        try:
            self._sessions.acquire_on_behalf_of_nowait(lease)
        except trio.WouldBlock:
            await self._wait(lease)
        self._metrics.sessions.set(self.open_sessions)
        return lease

    async def _wait(self, lease: SessionLease) -> None:
        with self._metrics.admissions_waiting.track_inprogress():
            with trio.move_on_after(self._wait_s) as waited:
                await self._sessions.acquire_on_behalf_of(lease)
            if waited.cancelled_caught:
                raise EngineBusy
        if self.draining:
            self._release(lease)
        self._check_open()

    async def drain(self) -> None:
        """Refuse every new session; return when the last open one has ended."""
        self.drain_begun.set()
        if self.open_sessions:
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

    def _check_open(self) -> None:
        if self._abort_error is not None:
            raise self._abort_error
        if self.draining:
            raise EngineBusy("The server is shutting down.", retry_after_s=5)

    def _release(self, lease: SessionLease) -> None:
        self._sessions.release_on_behalf_of(lease)
        self._metrics.sessions.set(self.open_sessions)
        if self.draining and not self.open_sessions:
            self._all_ended.set()
