"""The pool of slots: each session is owed one before any has a second."""

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from csm_trio.engine.slot_pool import SlotPool


class Held:
    """Tasks that take a token each, and keep it until they are cancelled or released."""

    def __init__(self, pool: SlotPool, nursery: trio.Nursery) -> None:
        self.sessions: list[str] = []
        self._pool = pool
        self._nursery = nursery

    async def take(self, session: str) -> trio.CancelScope:
        """Start a task that takes a token; return its scope, which may still wait."""
        scope: trio.CancelScope = await self._nursery.start(self._hold, session)
        await wait_all_tasks_blocked()
        return scope

    def release(self, session: str) -> None:
        self.sessions.remove(session)
        self._pool.release(session)

    async def _hold(self, session: str, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            await self._pool.acquire(session)
            self.sessions.append(session)


async def test_one_session_never_takes_the_last_slots(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        pool = SlotPool(16)
        held = Held(pool, nursery)
        for _ in range(20):
            await held.take("greedy")
        assert held.sessions == ["greedy"] * 14
        for session in ("a", "b"):
            await held.take(session)
        assert pool.borrowed == 16
        nursery.cancel_scope.cancel()


async def test_a_session_without_a_slot_comes_before_one_that_has_some(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        pool = SlotPool(2)
        held = Held(pool, nursery)
        for session in ("greedy", "greedy", "a", "b", "c"):
            await held.take(session)
        assert held.sessions == ["greedy", "a"]
        held.release("a")
        await wait_all_tasks_blocked()
        assert held.sessions == ["greedy", "b"], "first come, first served among equals"
        held.release("greedy")
        await wait_all_tasks_blocked()
        assert held.sessions == ["b", "greedy"]
        held.release("b")
        await wait_all_tasks_blocked()
        assert held.sessions == ["greedy", "c"]
        nursery.cancel_scope.cancel()


async def test_any_session_may_take_a_single_slot(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        pool = SlotPool(1)
        held = Held(pool, nursery)
        for session in ("a", "a", "b"):
            await held.take(session)
        held.release("a")
        await wait_all_tasks_blocked()
        assert held.sessions == ["a"]
        nursery.cancel_scope.cancel()


async def test_a_cancelled_wait_leaves_the_queue_and_no_token(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        pool = SlotPool(1)
        held = Held(pool, nursery)
        await held.take("a")
        waiting = await held.take("b")
        waiting.cancel()
        await wait_all_tasks_blocked()
        held.release("a")
        assert pool.borrowed == 0
        # Granted and cancelled in the same moment.
        await held.take("a")
        waiting = await held.take("b")
        waiting.cancel()
        held.release("a")
        await wait_all_tasks_blocked()
        assert pool.borrowed == len(held.sessions)
        nursery.cancel_scope.cancel()
