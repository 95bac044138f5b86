"""Admission: the bounded wait for a session, and who holds one."""

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from csm_trio.api import auth
from csm_trio.api.admission import MIN_WAITING, Admission, LocalSessions, SessionCounts
from csm_trio.api.api_keys import ApiKey
from csm_trio.api.elevenlabs import websockets
from csm_trio.config import Config
from csm_trio.errors import EngineBusy, EngineFailed, SpeechError, TooManySessions
from csm_trio.telemetry import Metrics
from support.client_calls import (
    GUARD_S,
    HI,
    KEY,
    SOCKET,
    dial_refused,
    locked,
    receive_all,
    running_server,
    send,
    until,
)
from support.fakes import SineRunner, StepGate
from support.serving import TEST_SERVER, Server, serving


async def test_a_waiting_request_gets_the_session_that_ends(autojump_clock: MockClock) -> None:
    admission = Admission(LocalSessions(1, Metrics(), wait_s=0.5))
    order: list[str] = []

    async def use(name: str, duration_s: float) -> None:
        with await admission.admit():
            order.append(name)
            await trio.sleep(duration_s)

    async with trio.open_nursery() as nursery:
        for name, duration_s in (("a", 0.2), ("b", 0.1), ("c", 0.0)):
            nursery.start_soon(use, name, duration_s)
            await wait_all_tasks_blocked()
    assert order == ["a", "b", "c"]
    assert admission.open_sessions == 0


async def test_after_its_wait_a_request_is_refused(autojump_clock: MockClock) -> None:
    admission = Admission(LocalSessions(1, Metrics(), wait_s=0.5))
    with await admission.admit():
        start_s = trio.current_time()
        with pytest.raises(EngineBusy):
            await admission.admit()
        assert trio.current_time() - start_s == pytest.approx(0.5)
    with await admission.admit():
        assert admission.open_sessions == 1


def api_key(name: str, max_sessions: int | None = None) -> ApiKey:
    return ApiKey(name, name.encode(), max_sessions)


async def test_a_key_waits_for_its_own_sessions_first(autojump_clock: MockClock) -> None:
    sessions = LocalSessions(3, Metrics(), wait_s=0.5)
    admission, alice = Admission(sessions), api_key("alice", 1)
    with await admission.admit(alice):
        start_s = trio.current_time()
        with pytest.raises(TooManySessions) as caught:
            await admission.admit(alice)
        assert trio.current_time() - start_s == pytest.approx(0.5)
        assert caught.value.retry_after_s == 1
        with await admission.admit(api_key("bob")):
            assert sessions.counts(alice).total == 2
        assert sessions.counts(alice) == SessionCounts(1, 1, 1)
    assert sessions.counts(alice) == SessionCounts(0, 1, 0)


async def test_a_full_server_takes_no_session_of_a_key(autojump_clock: MockClock) -> None:
    sessions = LocalSessions(1, Metrics(), wait_s=0.5)
    admission, alice = Admission(sessions), api_key("alice", 5)
    with await admission.admit(api_key("bob")):
        with pytest.raises(EngineBusy):
            await admission.admit(alice)
        with trio.move_on_after(0.1):
            await admission.admit(alice)
        assert sessions.counts(alice) == SessionCounts(0, 1, 1)
    with await admission.admit(alice):
        assert sessions.counts(alice) == SessionCounts(1, 1, 1)


async def test_a_lower_limit_holds_for_the_next_session(autojump_clock: MockClock) -> None:
    admission = Admission(LocalSessions(9, Metrics()))
    first = await admission.admit(api_key("alice", 2))
    with await admission.admit(api_key("alice", 2)):
        with pytest.raises(TooManySessions):
            await admission.admit(api_key("alice", 1))
        with first, pytest.raises(TooManySessions):
            await admission.admit(api_key("alice", 1))
        with pytest.raises(TooManySessions):
            await admission.admit(api_key("alice", 1))
        with await admission.admit(api_key("alice", 2)):
            pass
    with await admission.admit(api_key("alice", 1)):
        pass


async def test_a_key_that_is_no_longer_named_is_counted_to_its_last_session() -> None:
    metrics = Metrics()
    sessions = LocalSessions(9, metrics)

    def counted(name: str) -> float | None:
        return metrics.registry.get_sample_value("csm_key_sessions", {"key": name})

    sessions.count_keys(["alice", "bob"])
    assert (counted("alice"), counted("bob")) == (0, 0)
    with await Admission(sessions).admit(api_key("alice")):
        sessions.count_keys(["carol"])
        assert (counted("alice"), counted("bob"), counted("carol")) == (1, None, 0)
    assert counted("alice") is None


async def test_no_more_than_so_many_wait(autojump_clock: MockClock) -> None:
    admission = Admission(LocalSessions(1, Metrics(), wait_s=60))
    with await admission.admit():
        async with trio.open_nursery() as nursery:
            for _ in range(MIN_WAITING):
                nursery.start_soon(admission.admit)
            await wait_all_tasks_blocked()
            with pytest.raises(EngineBusy):
                await admission.admit()
            assert trio.current_time() < 60
            nursery.cancel_scope.cancel()
    assert admission.open_sessions == 0


async def test_a_cancelled_request_does_not_wait_on(autojump_clock: MockClock) -> None:
    admission = Admission(LocalSessions(1, Metrics(), wait_s=60))
    lease = await admission.admit()
    with trio.move_on_after(1):
        await admission.admit()
    with lease:
        pass
    assert admission.open_sessions == 0


@pytest.mark.parametrize("aborted", [False, True])
async def test_nothing_is_admitted_in_a_drain(autojump_clock: MockClock, aborted: bool) -> None:
    admission = Admission(LocalSessions(1, Metrics(), wait_s=60))
    refusals: list[SpeechError] = []

    async def wait() -> None:
        with pytest.raises(SpeechError) as refused:
            await admission.admit()
        refusals.append(refused.value)

    async with trio.open_nursery() as nursery:
        with await admission.admit():
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            if aborted:
                admission.abort(EngineFailed())
            nursery.start_soon(admission.drain)
            await wait_all_tasks_blocked()
            await wait()
    kind = EngineFailed if aborted else EngineBusy
    assert [type(error) for error in refusals] == [kind, kind]
    assert admission.open_sessions == 0


async def test_a_client_that_dials_again_at_once_is_not_refused_by_its_own_session() -> None:
    gate = StepGate()
    config = Config(server=replace(TEST_SERVER, max_sessions=1))
    with trio.fail_after(GUARD_S):
        async with serving(lambda: SineRunner(step_gate=gate), config) as server:
            async with server.dial() as ws:
                await send(ws, {**HI, "flush": True})
                await gate.held()
            # The step still holds the slot of the client that has hung up.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(speak_once, server)
                await until(lambda: server.metric("csm_admissions_waiting") == 1)
                gate.open()


async def speak_once(server: Server) -> None:
    async with server.dial() as ws:
        await send(ws, HI, {"text": ""})
        received, code = await receive_all(ws)
    assert (received[-1]["isFinal"], code) == (True, 1000)


async def test_a_socket_without_a_key_holds_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websockets, "ERROR_TO_CLOSE_S", 0.3)
    config = replace(locked(), max_sessions=1, admission_wait_ms=0)
    async with (
        running_server(config) as server,
        server.dial() as silent,
        server.dial(headers={"xi-api-key": "wrong"}) as wrong,
    ):
        assert server.metric("csm_sessions") == 0
        async with server.dial(headers={"xi-api-key": KEY}) as ws:
            await send(ws, HI, {"text": ""})
            received, code = await receive_all(ws)
        assert (received[-1]["isFinal"], code) == (True, 1000)
        assert (await receive_all(wrong))[1] == 1008
        await send(silent, {"text": " ", "xi_api_key": KEY}, HI, {"text": ""})
        received, code = await receive_all(silent)
        assert (received[-1]["isFinal"], code) == (True, 1000)


@pytest.mark.usefixtures("short_error_to_close")
async def test_a_key_that_does_not_come_ends_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websockets, "AUTHENTICATION_TIMEOUT_S", 0.05)
    async with running_server(locked()) as server, server.dial() as ws:
        received, code = await receive_all(ws)
    assert ([one["error"] for one in received], code) == (["invalid_api_key"], 1008)


async def test_one_address_has_so_many_sockets_without_a_key() -> None:
    async with running_server(locked()) as server, trio.open_nursery() as nursery:

        async def hold(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            async with server.dial():
                task_status.started()
                await trio.sleep_forever()

        for _ in range(auth.MAX_UNAUTHENTICATED):
            await nursery.start(hold)
        refused = await dial_refused(server, SOCKET)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        async with server.dial(headers={"xi-api-key": KEY}) as ws:
            await send(ws, HI, {"text": ""})
            assert (await receive_all(ws))[1] == 1000
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("short_error_to_close")
async def test_a_full_server_tells_a_socket_that_shows_its_key_late() -> None:
    config = replace(locked(), max_sessions=1, admission_wait_ms=0)
    async with (
        running_server(config) as server,
        server.dial() as late,
        server.dial(headers={"xi-api-key": KEY}),
    ):
        await send(late, {"text": " ", "xi_api_key": KEY})
        received, code = await receive_all(late)
    assert ([one["error"] for one in received], code) == (["system_busy"], 1013)
