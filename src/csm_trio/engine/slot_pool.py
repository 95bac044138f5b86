"""Pool tokens: the right to a slot, shared fairly between sessions.

Each session is owed one slot before any session gets a second: a socket of many contexts must not
make every other caller wait. It must not know what a slot computes.
"""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

import trio

_SLOTS_PER_RESERVED = 8


@dataclass(slots=True, eq=False)
class _Waiter:
    """A task that waits for a token; `granted` is set with the token already counted."""

    session: Hashable
    granted: trio.Event


class SlotPool:
    """As many tokens as there are slots.

    One in eight, at least one where there are several, is never a session's second: a session
    that holds none finds it free.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._reserved = 0 if slots == 1 else -(-slots // _SLOTS_PER_RESERVED)
        self._held = Counter[Hashable]()
        self._waiting: list[_Waiter] = []

    @property
    def borrowed(self) -> int:
        """How many tokens are borrowed now."""
        return self._held.total()

    async def acquire(self, session: Hashable) -> None:
        """Take a token for a session; wait for one if there is none that it may have."""
        await trio.lowlevel.checkpoint_if_cancelled()
        waiter = _Waiter(session, trio.Event())
        self._waiting.append(waiter)
        self._grant()
        taken = False
        try:
            await waiter.granted.wait()
            taken = True
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif not taken:
                # Granted in the moment of the cancel.
                self.release(session)

    def release(self, session: Hashable) -> None:
        """Return a token of a session."""
        self._held[session] -= 1
        if not self._held[session]:
            del self._held[session]
        self._grant()

    def _grant(self) -> None:
        """Give free tokens away: to the sessions with fewest, first come, first served."""
        while self._waiting and (free := self.slots - self.borrowed) > 0:
            waiter = min(self._waiting, key=lambda waiting: self._held[waiting.session])
            if self._held[waiter.session] and free <= self._reserved:
                return
            self._waiting.remove(waiter)
            self._held[waiter.session] += 1
            waiter.granted.set()
