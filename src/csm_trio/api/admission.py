"""The door's own limit: how many calls are inside at once, and whether it still opens."""

from types import TracebackType

import trio

from csm_trio.errors import EngineBusy
from csm_trio.telemetry import Metrics


class SessionLease:
    """One admitted call; leaving the `with` block gives the place back."""

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
        self._admission._leave()


class Admission:
    """Admit calls up to a limit. A call once admitted is never refused in its middle."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self.limit = limit
        self.inside = 0
        self._metrics = metrics
        self._emptied = trio.Event()
        self.drain_begun = trio.Event()
        metrics.sessions_limit.set(limit)

    @property
    def draining(self) -> bool:
        """Tell whether nobody is admitted any more."""
        return self.drain_begun.is_set()

    @property
    def cancel_reason(self) -> str:
        """What a call that is cut from outside is to be counted as."""
        return "shutdown" if self.draining else "hang_up"

    def admit(self) -> SessionLease:
        """Take a place, to be entered at once; raises EngineBusy where there is none."""
        if self.draining:
            raise EngineBusy("The server is shutting down.", retry_after_s=5)
        if self.inside >= self.limit:
            raise EngineBusy
        self.inside += 1
        self._metrics.sessions.set(self.inside)
        return SessionLease(self)

    async def drain(self) -> None:
        """Admit nobody any more; return when the last call has left."""
        self.drain_begun.set()
        if self.inside:
            await self._emptied.wait()

    def _leave(self) -> None:
        self.inside -= 1
        self._metrics.sessions.set(self.inside)
        if self.draining and not self.inside:
            self._emptied.set()
