"""Pool tokens: the right to a slot, shared fairly between sessions.

Each session is owed one slot before any session gets a second: a socket of many contexts must not
make every other caller wait. Pure: it must not know what a slot computes, nor who waits how.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

_SLOTS_PER_RESERVED = 8


@dataclass(slots=True, eq=False)
class PoolToken:
    """A token of a session, or its place in the queue for one.

    `on_grant` is called once, when the token is granted.
    """

    session: Hashable
    on_grant: Callable[[], None]
    granted: bool = False


class SlotPool:
    """As many tokens as there are slots.

    One in eight, at least one where there are several, is never a session's second: a session
    that holds none finds it free.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._reserved = 0 if slots == 1 else -(-slots // _SLOTS_PER_RESERVED)
        self._held = Counter[Hashable]()
        # Keys in the order of arrival.
        self._waiting: dict[PoolToken, None] = {}

    @property
    def borrowed(self) -> int:
        """How many tokens are borrowed now."""
        return self._held.total()

    def request(self, token: PoolToken) -> None:
        """Queue a token, which is granted at once or later, in the order of arrival."""
        self._waiting[token] = None
        self._grant()

    def release(self, token: PoolToken) -> None:
        """Return a token, or leave the queue for it."""
        if not token.granted:
            del self._waiting[token]
            return
        self._held[token.session] -= 1
        if not self._held[token.session]:
            del self._held[token.session]
        self._grant()

    def _grant(self) -> None:
        """Grant free tokens: to the sessions with fewest, first come, first served."""
        while self._waiting and (free := self.slots - self.borrowed) > 0:
            token = min(self._waiting, key=lambda waiting: self._held[waiting.session])
            if self._held[token.session] and free <= self._reserved:
                return
            del self._waiting[token]
            self._held[token.session] += 1
            token.granted = True
            token.on_grant()
