"""The pool of slots: each session is owed one before any has a second."""

from functools import partial

from csm_trio.engine.slot_pool import PoolToken, SlotPool


class Requests:
    """The tokens that sessions have asked for, and those granted, in order."""

    def __init__(self, slots: int) -> None:
        self.pool = SlotPool(slots)
        self.granted: list[str] = []
        self.tokens: list[PoolToken] = []

    def take(self, *sessions: str) -> None:
        for session in sessions:
            self.tokens.append(PoolToken(session, partial(self.granted.append, session)))
            self.pool.request(self.tokens[-1])

    def release(self, session: str) -> None:
        """Return the first granted token of a session."""
        token = next(one for one in self.tokens if one.granted and one.session == session)
        self.tokens.remove(token)
        self.pool.release(token)


def test_one_session_never_takes_the_last_slots() -> None:
    requests = Requests(16)
    requests.take(*["greedy"] * 20)
    assert requests.granted == ["greedy"] * 14
    requests.take("a", "b")
    assert requests.granted[14:] == ["a", "b"]
    assert requests.pool.borrowed == 16


def test_a_session_without_a_slot_comes_before_one_that_has_some() -> None:
    requests = Requests(2)
    requests.take("greedy", "greedy", "a", "b", "c")
    assert requests.granted == ["greedy", "a"]
    for released, granted in (
        ("a", "b"),  # first come, first served among equals
        ("greedy", "greedy"),
        ("b", "c"),
    ):
        requests.release(released)
        assert requests.granted[-1] == granted


def test_any_session_may_take_a_single_slot() -> None:
    requests = Requests(1)
    requests.take("a", "a", "b")
    requests.release("a")
    assert requests.granted == ["a", "a"]


def test_a_token_released_before_its_grant_leaves_the_queue() -> None:
    requests = Requests(1)
    requests.take("a", "b", "c")
    requests.pool.release(requests.tokens[1])
    requests.release("a")
    assert requests.granted == ["a", "c"]
    requests.release("c")
    assert requests.pool.borrowed == 0
