"""The servers of a batch: free sessions, pauses, dead servers that return; by Trio's mock clock."""

from collections.abc import Mapping
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from csm_trio.batch.http_exchange import AnswerLost, ServerUnreachable
from csm_trio.batch.servers import NoServer, Server, ServerPool
from csm_trio.batch.speech_exchange import SessionCount

A, B = "ws://a", "ws://b"


class FakeServers:
    """What each server answers to a probe; None is no server there."""

    def __init__(self, answers: Mapping[str, SessionCount | None]) -> None:
        self.answers = dict(answers)
        self.silent: set[str] = set()

    async def probe(self, base_url: str) -> SessionCount | None:
        await trio.lowlevel.checkpoint()
        if base_url in self.silent:
            raise AnswerLost("no answer within 10 seconds")
        if base_url not in self.answers:
            raise ServerUnreachable("Connection refused")
        return self.answers[base_url]


def pool_of(fakes: FakeServers, *urls: str, patience_s: float = 60.0) -> ServerPool:
    return ServerPool(urls, fakes.probe, patience_s=patience_s)


async def acquired(pool: ServerPool, seconds: float = 0.1) -> list[str]:
    """Acquire until no server is free for so long; return where."""
    urls = []
    with trio.move_on_after(seconds) as idle:
        while True:
            urls.append((await pool.acquire()).base_url)
            idle.deadline = trio.current_time() + seconds
    return urls


# open sessions of others, limit, requests that a batch may have in flight
CAPACITIES = [
    (0, 1, 1),
    (1, 1, 0),
    (0, 4, 3),
    (3, 4, 1),
    (4, 4, 0),
    (3, 8, 4),
    (0, 64, 56),
    (60, 64, 1),
    (64, 64, 0),
]


@pytest.mark.parametrize(("others", "limit", "expected"), CAPACITIES)
async def test_a_batch_takes_what_is_free_and_leaves_one_in_eight(
    others: int, limit: int, expected: int, autojump_clock: MockClock
) -> None:
    pool = pool_of(FakeServers({A: SessionCount(others, limit)}), A)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.watch)
        assert await acquired(pool) == [A] * expected
        nursery.cancel_scope.cancel()


async def test_live_calls_that_come_shrink_a_batch(autojump_clock: MockClock) -> None:
    fakes = FakeServers({A: SessionCount(0, 4)})
    pool = pool_of(fakes, A)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.watch)
        assert len(await acquired(pool)) == 3
        fakes.answers[A] = SessionCount(3 + 1, 4)
        await trio.sleep(2)
        assert pool.servers[0].capacity == 2
        nursery.cancel_scope.cancel()


async def test_a_busy_server_is_left_alone_for_as_long_as_it_says(
    autojump_clock: MockClock,
) -> None:
    pool = pool_of(FakeServers({A: SessionCount(0, 4)}), A)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.watch)
        server = await pool.acquire()
        begun_s = trio.current_time()
        server.pause(begun_s, 7)
        pool.release(server)
        await pool.acquire()
        assert 7 <= trio.current_time() - begun_s < 7 * 1.5 + 0.1
        nursery.cancel_scope.cancel()


async def test_a_server_without_counts_gets_one_more_with_each_answer(
    autojump_clock: MockClock,
) -> None:
    pool = pool_of(FakeServers({A: None}), A)
    (server,) = pool.servers
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.watch)
        assert len(await acquired(pool)) == 1
        server.note_speech(None, own=1)
        assert len(await acquired(pool)) == 1
        assert server.in_flight == 2
        server.pause(trio.current_time(), 0)
        assert server.capacity == 1
        nursery.cancel_scope.cancel()


def test_headers_count_where_there_are_no_metrics() -> None:
    server = Server(A)
    server.note_speech(SessionCount(4, 8), own=1)
    assert server.capacity == 4
    server.has_metrics = True
    server.note_speech(SessionCount(8, 8), own=1)
    assert server.capacity == 4


async def test_a_dead_server_is_left_out_and_tried_again(autojump_clock: MockClock) -> None:
    fakes = FakeServers({A: SessionCount(0, 2)})
    pool = pool_of(fakes, A, B)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.watch)
        assert await acquired(pool) == [A]
        fakes.answers[B] = SessionCount(0, 2)
        assert await acquired(pool, 10) == [B]
        nursery.cancel_scope.cancel()


async def test_items_go_to_the_freest_server(autojump_clock: MockClock) -> None:
    pool = pool_of(FakeServers({A: SessionCount(0, 10), B: SessionCount(3, 10)}), A, B)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.watch)
        await trio.sleep(0.1)
        urls = await acquired(pool)
        assert (urls.count(A), urls.count(B)) == (8, 5)
        assert set(urls[-2:]) == {A, B}
        nursery.cancel_scope.cancel()


async def test_without_any_server_patience_ends(autojump_clock: MockClock) -> None:
    fakes = FakeServers({A: SessionCount(0, 4)})
    pool = pool_of(fakes, A, B, patience_s=60)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.watch)
        await pool.acquire()
        del fakes.answers[A]
        pool.servers[0].fail("gone")
        begun_s = trio.current_time()
        with pytest.raises(NoServer, match="no server for 60 s: ws://a: Connection refused"):
            await pool.acquire()
        assert 58 <= trio.current_time() - begun_s <= 62
        nursery.cancel_scope.cancel()


async def test_servers_that_refuse_the_key_end_it_at_once(autojump_clock: MockClock) -> None:
    pool = pool_of(FakeServers({A: SessionCount(0, 4)}), A)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.watch)
        (await pool.acquire()).refuse("Invalid API key")
        with pytest.raises(NoServer, match="Invalid API key"):
            await pool.acquire()
        nursery.cancel_scope.cancel()


async def test_requests_of_a_server_that_stays_silent_are_given_up(
    autojump_clock: MockClock,
) -> None:
    fakes = FakeServers({A: SessionCount(0, 4)})
    pool = pool_of(fakes, A)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.watch)
        server = await pool.acquire()
        fakes.silent.add(A)
        with pytest.raises(AnswerLost, match="no answer within 10 seconds"):
            await server.guard(partial(trio.sleep, 3_600))
        assert not server.alive
        nursery.cancel_scope.cancel()
