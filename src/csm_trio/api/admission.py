"""Admission control: the limit of concurrent sessions, the bounded wait for one, and the shutdown.

A client that hangs up and calls again at once finds its own session still ending: admission waits
a moment for it, first come, first served. So it is with the sessions of one API key, which may have
a limit of its own: a request that waits for one of those takes no session of the others.
"""

import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import trio

from csm_trio.api.api_keys import ApiKey
from csm_trio.errors import EngineBusy, SpeechError, TooManySessions
from csm_trio.telemetry import Metrics

MIN_WAITING = 16
"""Requests that may wait for a session on the smallest server; a larger one lets as many wait as
it has sessions."""


@dataclass(frozen=True, slots=True)
class SessionCounts:
    """Open sessions: of one client, of which it may have `limit`, and of the whole server.

    A client is an API key; without keys all are one.
    """

    of_client: int
    limit: int
    total: int


class SessionLease:
    """The right to one session; leaving the `with` block releases it.

    `counts` are those of its admission.
    """

    counts: SessionCounts

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

    async def acquire(self, lease: Hashable, key: ApiKey | None = None) -> SessionCounts:
        """Take a session, of those of a key; return how many are open with it.

        Raises EngineBusy where none ends in time, or too many wait, and TooManySessions where the
        key has as many as it may have.
        """

    def release(self, lease: Hashable) -> None:
        """Return a session."""


class LocalSessions:
    """Sessions counted in this process.

    `wait_s` is how long a request may wait for a session that ends. Keys are counted by name.
    """

    def __init__(self, limit: int, metrics: Metrics, *, wait_s: float = 0.0) -> None:
        self.limit = limit
        self._wait_s = wait_s
        self._metrics = metrics
        self._limiter = trio.CapacityLimiter(limit)
        self._of_keys: dict[str, trio.CapacityLimiter] = {}
        self._key_names: dict[Hashable, str] = {}
        self._named: frozenset[str] = frozenset()
        metrics.sessions_limit.set(limit)

    @property
    def open_sessions(self) -> int:
        """How many sessions are open."""
        return self._limiter.borrowed_tokens

    def count_keys(self, names: Iterable[str]) -> None:
        """Count the sessions of these keys; others are counted until their last one ends."""
        self._named = frozenset(names)
        for name in self._named:
            self._of_keys.setdefault(name, trio.CapacityLimiter(math.inf))
        for name in list(self._of_keys):
            self._update_key(name)

    def counts(self, key: ApiKey | None) -> SessionCounts:
        """Return how many sessions are open."""
        total = self.open_sessions
        if key is None:
            return SessionCounts(total, self.limit, total)
        of_key = self._of_keys.get(key.name)
        return SessionCounts(
            0 if of_key is None else of_key.borrowed_tokens,
            min(self.limit, key.max_sessions or self.limit),
            total,
        )

    async def acquire(self, lease: Hashable, key: ApiKey | None = None) -> SessionCounts:
        """Take a session, of those of a key; return how many are open with it.

        Raises EngineBusy where none ends in time, or too many wait, and TooManySessions where the
        key has as many as it may have.
        """
        deadline = trio.current_time() + self._wait_s
        if key is None:
            await self._take(self._limiter, lease, deadline, EngineBusy)
        else:
            await self._take_of_key(key, lease, deadline)
        self._metrics.sessions.set(self.open_sessions)
        return self.counts(key)

    async def _take_of_key(self, key: ApiKey, lease: Hashable, deadline: float) -> None:
        of_key = self._of_keys.setdefault(key.name, trio.CapacityLimiter(math.inf))
        of_key.total_tokens = key.max_sessions or math.inf
        refusal = TooManySessions(key.max_sessions or self.limit)
        try:
            await self._take(of_key, lease, deadline, lambda: refusal)
        finally:
            self._update_key(key.name)
        self._key_names[lease] = key.name
        taken = False
        try:
            await self._take(self._limiter, lease, deadline, EngineBusy)
            taken = True
        finally:
            if not taken:
                self._release_of_key(lease)

    async def _take(
        self,
        limiter: trio.CapacityLimiter,
        lease: Hashable,
        deadline: float,
        refusal: Callable[[], SpeechError],
    ) -> None:
        waiting = limiter.statistics().tasks_waiting
        if limiter.available_tokens < 1 and waiting >= max(MIN_WAITING, limiter.total_tokens):
            raise refusal()
        try:
            limiter.acquire_on_behalf_of_nowait(lease)
        except trio.WouldBlock:
            with self._metrics.admissions_waiting.track_inprogress():
                with trio.CancelScope(deadline=deadline) as waited:
                    await limiter.acquire_on_behalf_of(lease)
                if waited.cancelled_caught:
                    raise refusal() from None

    def release(self, lease: Hashable) -> None:
        """Return a session."""
        self._limiter.release_on_behalf_of(lease)
        self._metrics.sessions.set(self.open_sessions)
        if lease in self._key_names:
            self._release_of_key(lease)

    def _release_of_key(self, lease: Hashable) -> None:
        name = self._key_names.pop(lease)
        self._of_keys[name].release_on_behalf_of(lease)
        self._update_key(name)

    def _update_key(self, name: str) -> None:
        """Set a key's metric; forget a key that is no longer named, at its last session."""
        of_key = self._of_keys[name].statistics()
        if name in self._named or of_key.borrowed_tokens or of_key.tasks_waiting:
            self._metrics.key_sessions.labels(name).set(of_key.borrowed_tokens)
        else:
            del self._of_keys[name]
            self._metrics.key_sessions.remove(name)


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

    async def admit(self, key: ApiKey | None = None) -> SessionLease:
        """Return a lease of a session, of those of a key, to be entered at once.

        Raises EngineBusy in a drain, where no session ends in time, and where too many wait;
        TooManySessions where the key has as many as it may have.
        """
        self._check_open()
        lease = SessionLease(self)
        lease.counts = await self._sessions.acquire(lease, key)
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
