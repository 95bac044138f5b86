"""Streams that wait for a pool token or hold one, in the process of the device thread.

Only one thread uses it; the step loop gets commands through `put` only.
"""

from collections.abc import Callable
from functools import partial
from typing import Generic

from csm_trio.engine.slot_pool import PoolToken, SlotPool
from csm_trio.engine.step_loop import Acknowledge, Admit, Command, Ping, Release, Stream


class SlotQueue(Generic[Stream]):
    """A token first, then a slot, and the token back after the slot.

    `put` gives the step loop a command.
    `on_grant` is called when a stream has its token, `on_release` when it has returned it.
    """

    def __init__(
        self,
        slots: int,
        put: Callable[[Command[Stream]], None],
        *,
        on_grant: Callable[[Stream], None],
        on_release: Callable[[Stream], None],
    ) -> None:
        self._pool = SlotPool(slots)
        self._put = put
        self._on_grant = on_grant
        self._on_release = on_release
        self._tokens: dict[Stream, PoolToken] = {}

    def admit(self, stream: Stream, session_id: str) -> None:
        """Queue a stream for a token; with it, its utterance is generated.

        Without a `session_id` the stream is a session of its own.
        """
        session = session_id or stream
        # Before the request, which may grant the token at once.
        self._tokens[stream] = PoolToken(session, partial(self._grant, stream))
        self._pool.request(self._tokens[stream])

    def acknowledge(self, stream: Stream, frames: int) -> None:
        """Record that the stream's reader has taken so many frames."""
        self._put(Acknowledge(stream, frames))

    def release(self, stream: Stream) -> None:
        """Release a stream, once its slot is free."""
        if self._tokens[stream].granted:
            self._put(Release(stream))
        else:
            self.released(stream)

    def released(self, stream: Stream) -> None:
        """Return the token of a stream whose slot is free."""
        self._pool.release(self._tokens.pop(stream))
        self._on_release(stream)

    def ping(self, answered: Callable[[], None]) -> None:
        """Have `answered` called on the device thread."""
        self._put(Ping(answered))

    def _grant(self, stream: Stream) -> None:
        self._on_grant(stream)
        self._put(Admit(stream))
