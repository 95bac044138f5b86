"""Admission control: the limit of concurrent sessions, and the drain state."""

from types import TracebackType

import trio

from csm_trio.errors import EngineBusy
from csm_trio.telemetry import Metrics


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
        self._admission._release()


class Admission:
    """Admits sessions (sockets and REST requests) up to a limit, until the drain begins."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self.limit = limit
        self.open_sessions = 0
        self._metrics = metrics
        self._all_ended = trio.Event()
        self.drain_begun = trio.Event()
        metrics.sessions_limit.set(limit)

    @property
    def draining(self) -> bool:
        """Whether every new session is refused."""
        return self.drain_begun.is_set()

    @property
    def cancel_reason(self) -> str:
        """The metric label of a session that is cancelled from outside."""
        return "shutdown" if self.draining else "hang_up"

    def admit(self) -> SessionLease:
        """Return a lease, to be entered at once; raise EngineBusy at the limit or in a drain."""
        if self.draining:
            raise EngineBusy("The server is shutting down.", retry_after_s=5)
        if self.open_sessions >= self.limit:
            raise EngineBusy
        self.open_sessions += 1
        self._metrics.sessions.set(self.open_sessions)
        return SessionLease(self)

    async def drain(self) -> None:
        """Refuse every new session; return when the last open one has ended."""
        self.drain_begun.set()
        if self.open_sessions:
            await self._all_ended.wait()

    def _release(self) -> None:
        self.open_sessions -= 1
        self._metrics.sessions.set(self.open_sessions)
        if self.draining and not self.open_sessions:
            self._all_ended.set()
