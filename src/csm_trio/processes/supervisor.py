"""The supervisor: binds the port, runs engine process and workers, accepts and hands over.

It holds what is one over all workers: admission, tokens, edited voices, request history, metrics.
A worker that ends is replaced; an engine process that ends, ends the server. It imports no torch.
"""

import logging
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import trio

from csm_trio.api.admission import LocalSessions, SessionCounts
from csm_trio.api.agent_check import AgentCheck
from csm_trio.api.api_keys import ApiKey, KeyStore
from csm_trio.api.connections import accept_next
from csm_trio.api.shared_state import LocalSharedState
from csm_trio.api.tls import Certificate, CertificateStore
from csm_trio.config import Config
from csm_trio.errors import ProcessFailed, ServerLeaving, StartupError
from csm_trio.metrics_snapshot import Snapshot, add_up, render, take_snapshot, without_gauges
from csm_trio.processes.control_channel import Call, ControlChannel, Notice
from csm_trio.processes.handover import hand_over
from csm_trio.processes.setup import EngineSetup, WorkerSetup
from csm_trio.processes.spawn import Child, Spawn, spawn_process
from csm_trio.processes.worker_count import worker_count
from csm_trio.protocol.voice_settings import VoiceSettings
from csm_trio.server import (
    CLEANUP_S,
    FAILURE_GRACE_S,
    agent_socket,
    bound_socket,
    listen,
    local_sessions,
    log_listening,
    start_agent_check,
    start_reading_certificate,
    start_reading_keys,
    start_reading_voices,
    start_reloads,
)
from csm_trio.telemetry import Metrics
from csm_trio.voice_store.encoder_process import EncodeVoices, encode_voices
from csm_trio.voice_store.store import VoiceStore

logger = logging.getLogger(__name__)

RUNNER_FACTORY = "csm_trio.engine.load:load_runner"

_PING_S = 1.0
"""Seconds between two pings of a worker, and for which it may take to answer one."""
_UNRESPONSIVE_S = 15.0
"""Seconds without an answer after which a worker is killed."""
_ANSWER_S = 1.0
"""Seconds that a worker has to answer what another worker's request waits for."""
_ENGINE_ANSWER_S = 6.0
"""Seconds that workers have to say whether the step loop answers."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 10.0
"""Seconds before a worker is replaced that ended soon after its start; doubled each time."""
_LASTED_S = 10.0
"""Seconds after which the end of a worker no longer counts as soon."""


@dataclass(frozen=True, slots=True)
class Supervising:
    """A server that has opened its port."""

    port: int
    supervisor: "Supervisor"


@dataclass(slots=True, eq=False)
class _Lease:
    """A session of a worker, or its wait for one."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    acquired: bool = False
    released: bool = False


@dataclass(slots=True, eq=False)
class _Worker:
    """A running worker.

    connections: handed over and not yet closed. leases: by the worker's own ids.
    """

    name: str
    child: Child
    control: ControlChannel = field(init=False)
    ready: trio.Event = field(default_factory=trio.Event)
    responsive: bool = True
    connections: int = 0
    leases: dict[int, _Lease] = field(default_factory=dict)
    snapshot: Snapshot = ()

    @property
    def load(self) -> tuple[int, int]:
        """How busy it is; the least of several gets the next connection."""
        return len(self.leases) + self.connections, len(self.leases)


async def supervise(
    config: Config,
    *,
    runner_factory: str = RUNNER_FACTORY,
    spawn: Spawn = spawn_process,
    encode: EncodeVoices = encode_voices,
    task_status: trio.TaskStatus[Supervising] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Start all processes and serve until a signal.

    Raises `StartupError` where the port cannot be bound or a child cannot start, and
    `ProcessFailed` where the engine process ends.
    """
    store, keys = VoiceStore(config, encode), KeyStore(config.server)
    certificates = CertificateStore(config.server)
    with bound_socket(config.server) as bound, agent_socket(config.server) as agent_bound:
        await store.load()
        engine_setup = EngineSetup(config, runner_factory)
        async with (
            spawn("engine", engine_setup, None) as child,
            _started_engine(child) as engine,
            trio.open_nursery() as nursery,
        ):
            supervisor = Supervisor(config, store, keys, certificates, engine, spawn)
            nursery.start_soon(supervisor.watch_engine)
            reloads = await start_reloads(nursery)
            start_reading_voices(nursery, store, reloads, supervisor.distribute_voices)
            start_reading_keys(
                nursery, keys, reloads, supervisor.sessions, supervisor.distribute_keys
            )
            start_reading_certificate(
                nursery, certificates, reloads, supervisor.distribute_certificate
            )
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async with trio.open_nursery() as serving:
                    for index in range(supervisor.n_workers):
                        serving.start_soon(supervisor.keep_worker, f"worker-{index}")
                    await supervisor.all_ready()
                    start_agent_check(
                        nursery, agent_bound, supervisor.agent_check(), supervisor.metrics
                    )
                    listener = listen(bound)
                    log_listening(
                        *(bound, engine.slots, supervisor.sessions.limit, supervisor.n_workers),
                        secure=certificates.certificate is not None,
                    )
                    async with listener, trio.open_nursery() as accepting:
                        accepting.start_soon(supervisor.accept, listener)
                        task_status.started(Supervising(bound.getsockname()[1], supervisor))
                        await anext(signals)
                        accepting.cancel_scope.cancel()
                    serving.start_soon(_stop_at_signal, signals, supervisor)
                    supervisor.stop()
                    serving.cancel_scope.deadline = (
                        trio.current_time() + config.server.drain_s + 2 * CLEANUP_S
                    )
                    await supervisor.all_stopped.wait()
                    serving.cancel_scope.cancel()
            nursery.cancel_scope.cancel()


@dataclass(frozen=True, slots=True)
class _Engine:
    """The running engine process."""

    child: Child
    control: ControlChannel
    slots: int


@asynccontextmanager
async def _started_engine(child: Child) -> AsyncIterator[_Engine]:
    """Wait until the engine process is warm; raise StartupError where it cannot start."""
    report, reports = trio.open_memory_channel[int | str](1)
    # Its number of slots, or the sentence that says why it cannot start.
    calls: dict[str, Call] = {"ready": report.send, "failed": report.send}
    control = ControlChannel(child.control.dup(), calls, {})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(control.run)
        with report, reports:
            outcome = await _first_of(reports, child)
        if isinstance(outcome, str):
            raise StartupError(outcome)
        yield _Engine(child, control, outcome)
        nursery.cancel_scope.cancel()


async def _first_of(reports: trio.MemoryReceiveChannel[int | str], child: Child) -> int | str:
    """Return what a child reports, or else how it ended."""
    outcome: int | str = ""
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            nonlocal outcome
            outcome = f"The engine process {await child.wait()}."
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        outcome = await reports.receive()
        nursery.cancel_scope.cancel()
    return outcome


async def _stop_at_signal(signals: AsyncIterator[int], supervisor: "Supervisor") -> None:
    await anext(signals)
    supervisor.stop()


class Supervisor:
    """The workers of one server, and the state that they share."""

    def __init__(
        self,
        config: Config,
        store: VoiceStore,
        keys: KeyStore,
        certificates: CertificateStore,
        engine: _Engine,
        spawn: Spawn,
    ) -> None:
        self.metrics = Metrics()
        self.n_workers = worker_count(config.server.workers, engine.slots)
        self.sessions: LocalSessions = local_sessions(config.server, engine.slots, self.metrics)
        self.all_stopped = trio.Event()
        self._config = config
        self._store = store
        self._keys = keys
        self._certificates = certificates
        self._engine = engine
        self._spawn = spawn
        self._shared = LocalSharedState(config.speech, self.metrics, store, keys)
        self._workers: dict[str, _Worker] = {}
        self._n_kept = 0
        # Set again each time that a worker becomes ready.
        self._has_ready = trio.Event()
        self._stopping = False
        # Counters of workers that have ended: a sum must not fall.
        self._ended: Snapshot = ()

    # --- the children ---

    async def watch_engine(self) -> NoReturn:
        """Raise ProcessFailed when the engine process ends, after its clients have got an error."""
        end = await self._engine.child.wait()
        logger.error("the engine process %s", end)
        await trio.sleep(FAILURE_GRACE_S)
        for worker in self._workers.values():
            worker.child.kill()
        raise ProcessFailed(f"The engine process {end}.")

    async def all_ready(self) -> None:
        """Wait until every worker serves."""
        while len(self._workers) < self.n_workers or not all(
            worker.ready.is_set() for worker in self._workers.values()
        ):
            await self._next_ready()

    async def keep_worker(self, name: str) -> None:
        """Run a worker, and another one when it ends, until the server stops.

        Raises StartupError where the first one does not start.
        """
        self._n_kept += 1
        pause_s, lasted = _FIRST_PAUSE_S, False
        while True:
            started_s = time.monotonic()
            end, was_ready = await self._run_worker(name)
            if self._stopping:
                break
            if not was_ready and not lasted:
                raise StartupError(f"The worker process {end} before it served.")
            lasted = True
            self.metrics.worker_restarts.inc()
            logger.error("%s %s; it is replaced", name, end)
            if time.monotonic() - started_s > _LASTED_S:
                pause_s = _FIRST_PAUSE_S
            else:
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        self._n_kept -= 1
        if not self._n_kept:
            self.all_stopped.set()

    async def _run_worker(self, name: str) -> tuple[str, bool]:
        """Run one worker to its end; return how it ended, and whether it was ready."""
        to_engine, to_worker = socket.socketpair()
        with to_engine, to_worker:
            if not hand_over(self._engine.child.handover, to_engine.fileno()):
                raise ProcessFailed("The engine process takes no worker.")
            setup = WorkerSetup(
                self._config,
                self._store.catalog,
                self._keys.keys,
                self._certificates.certificate,
                name,
                self._engine.slots,
                self.sessions.limit,
                dict(self._store.settings),
            )
            async with self._spawn("worker", setup, to_worker) as child:
                # The last copy here must go: the engine process releases a worker's slots when
                # its end of the socket closes.
                to_engine.close()
                worker = self._add_worker(name, child)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(worker.control.run)
                    nursery.start_soon(self._update_worker, worker, setup)
                    nursery.start_soon(self._watch_worker, worker)
                    end = await child.wait()
                    nursery.cancel_scope.cancel()
                self._remove_worker(worker)
        return end, worker.ready.is_set()

    def _add_worker(self, name: str, child: Child) -> _Worker:
        worker = _Worker(name, child)
        calls: dict[str, Call] = {
            "issue_token": self._shared.issue_token,
            "redeem_token": self._shared.redeem_token,
            "segments_of": self._shared.segments_of,
            "segments_before": self._shared.segments_before,
            "edit_voice": self._edit_voice,
            "add_voice": self._shared.add_voice,
            "change_voice": self._shared.change_voice,
            "remove_voice": self._shared.remove_voice,
            "render_metrics": self.render_metrics,
            "admit": partial(self._admit, worker),
        }
        notices: dict[str, Notice] = {
            "ready": partial(self._note_ready, worker),
            "closed": partial(self._count_connection, worker, -1),
            "release": partial(self._release, worker),
            "record_segment": self._shared.record_segment,
        }
        worker.control = ControlChannel(child.control.dup(), calls, notices)
        self._workers[name] = worker
        if self._stopping:
            worker.control.notify("stop")
        return worker

    async def _update_worker(self, worker: _Worker, setup: WorkerSetup) -> None:
        """Send a new worker what has changed since its setup was made."""
        if self._keys.keys is not setup.keys:
            await self._ask(worker, "set_keys", self._keys.keys)
        if self._certificates.certificate is not setup.certificate:
            await self._ask(worker, "set_certificate", self._certificates.certificate)
        catalog, edits = self._store.catalog, dict(self._store.settings)
        if catalog is not setup.voices or edits != setup.voice_edits:
            await self._ask(worker, "set_voices", catalog, edits)

    def _remove_worker(self, worker: _Worker) -> None:
        """Return everything that an ended worker held."""
        del self._workers[worker.name]
        for lease_id in list(worker.leases):
            self._release(worker, lease_id)
        self._count_connection(worker, -worker.connections)
        self._ended = add_up([self._ended, without_gauges(worker.snapshot)])
        self.metrics.workers.set(len(self._workers))

    def _note_ready(self, worker: _Worker) -> None:
        worker.ready.set()
        logger.info("%s serves", worker.name)
        self.metrics.workers.set(len(self._workers))
        self._has_ready.set()
        self._has_ready = trio.Event()

    async def _next_ready(self) -> None:
        await self._has_ready.wait()

    async def _watch_worker(self, worker: _Worker) -> NoReturn:
        """Ping a worker: one that does not answer gets no connections, and is killed in the end."""
        await worker.ready.wait()
        answered_s = trio.current_time()
        while trio.current_time() - answered_s < _UNRESPONSIVE_S:
            with trio.move_on_after(_PING_S):
                await self._ask(worker, "ping")
                answered_s = trio.current_time()
            worker.responsive = trio.current_time() - answered_s < _PING_S
            await trio.sleep(_PING_S)
        logger.error("%s has not answered for %.0f s", worker.name, _UNRESPONSIVE_S)
        worker.child.kill()
        await trio.sleep_forever()

    async def _ask(self, worker: _Worker, name: str, *args: object) -> Any:
        """Call a worker; return None where it ends meanwhile."""
        try:
            return await worker.control.call(name, *args)
        except ServerLeaving:
            return None

    async def count_used_slots(self) -> int | None:
        """Return how many slots hold an utterance; None where the step loop answers no worker."""
        counts: list[int] = []

        async def count(worker: _Worker) -> None:
            used = await self._ask(worker, "count_used_slots")
            if used is not None:
                counts.append(used)

        with trio.move_on_after(_ENGINE_ANSWER_S):
            async with trio.open_nursery() as nursery:
                for worker in self._workers.values():
                    if worker.ready.is_set():
                        nursery.start_soon(count, worker)
        return sum(counts) if counts else None

    def agent_check(self) -> AgentCheck:
        """Return the agent check of the whole server."""
        return AgentCheck(
            self.sessions,
            self._engine.slots,
            is_draining=lambda: self._stopping,
            count_used_slots=self.count_used_slots,
        )

    # --- the connections ---

    async def accept(self, listener: trio.SocketListener) -> NoReturn:
        """Accept connections and hand each to the least busy worker."""
        while True:
            stream = await accept_next(listener, self.metrics.accept_errors.inc)
            with stream.socket as connection:
                await self._hand_over(connection.fileno())

    async def _hand_over(self, descriptor: int) -> None:
        while True:
            serving = [worker for worker in self._workers.values() if worker.ready.is_set()]
            # Unresponsive ones come last: one that is slow is better than none.
            for worker in sorted(serving, key=lambda one: (not one.responsive, one.load)):
                if hand_over(worker.child.handover, descriptor):
                    self._count_connection(worker, 1)
                    return
            if serving:
                self.metrics.accept_errors.inc()
                return  # its closing tells the client
            await self._next_ready()

    def _count_connection(self, worker: _Worker, change: int) -> None:
        worker.connections += change
        self.metrics.worker_connections.labels(worker.name).set(worker.connections)

    # --- the sessions ---

    async def _admit_lease(self, lease: _Lease, key: ApiKey | None) -> SessionCounts:
        with lease.scope:
            await self.sessions.acquire(lease, key)
            lease.acquired = True
        if lease.acquired and lease.released:
            # Released in the moment of the grant.
            self.sessions.release(lease)
        return self.sessions.counts(key)

    def _admit(
        self, worker: _Worker, lease_id: int, key: ApiKey | None
    ) -> Awaitable[SessionCounts]:
        lease = worker.leases[lease_id] = _Lease()
        return self._admit_lease(lease, key)

    def _release(self, worker: _Worker, lease_id: int) -> None:
        lease = worker.leases.pop(lease_id)
        lease.released = True
        if lease.acquired:
            self.sessions.release(lease)
        else:
            lease.scope.cancel()

    # --- what all workers share ---

    async def _edit_voice(self, voice_id: str, changes: VoiceSettings) -> None:
        await self._store.edit_settings(voice_id, changes)
        await self.distribute_voices()

    async def distribute_keys(self) -> None:
        """Send every worker the API keys as they are now; return when they have them."""
        await self._tell_workers("set_keys", self._keys.keys)

    async def distribute_certificate(self, certificate: Certificate) -> None:
        """Send every worker the certificate of new connections; return when they have it."""
        await self._tell_workers("set_certificate", certificate)

    async def distribute_voices(self) -> None:
        """Send every worker the voices as they are now; return when they have them."""
        await self._tell_workers("set_voices", self._store.catalog, dict(self._store.settings))

    async def _tell_workers(self, name: str, *args: object) -> None:
        """Call every worker; return when all have answered, within a bound."""
        with trio.move_on_after(_ANSWER_S):
            async with trio.open_nursery() as nursery:
                for worker in self._workers.values():
                    nursery.start_soon(self._ask, worker, name, *args)

    async def render_metrics(self) -> bytes:
        """Return the metrics of all processes, added up, in Prometheus' text format."""
        engine: list[Snapshot] = []

        async def collect(worker: _Worker) -> None:
            snapshot = await self._ask(worker, "collect")
            worker.snapshot = snapshot or worker.snapshot

        async def collect_engine() -> None:
            engine.append(await self._engine.control.call("collect"))

        with trio.move_on_after(_ANSWER_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(collect_engine)
                for worker in self._workers.values():
                    nursery.start_soon(collect, worker)
        workers = [worker.snapshot for worker in self._workers.values()]
        own = take_snapshot(self.metrics.registry)
        return render(add_up([own, self._ended, *engine, *workers]))

    # --- the end ---

    def stop(self) -> None:
        """Have every worker begin its drain; the second time, end it."""
        self._stopping = True
        for worker in self._workers.values():
            worker.control.notify("stop")
