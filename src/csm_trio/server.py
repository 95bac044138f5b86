"""Assemble and run `serve` in one process: bound socket, connections, signals and drain.

Knows no flag and no torch: it is given a `Config` and the function that makes the runner. With
worker processes, `processes` assembles the same parts.
"""

import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import trio

from csm_trio.api.admission import Admission, LocalSessions
from csm_trio.api.agent_check import AgentCheck
from csm_trio.api.api_keys import KeyStore
from csm_trio.api.app import connection_error_body, create_app
from csm_trio.api.connection_limits import ConnectionLimits
from csm_trio.api.connections import Connections
from csm_trio.api.shared_state import LocalSharedState
from csm_trio.api.state import ServerState
from csm_trio.api.tls import Certificate, CertificateStore, ServerTls
from csm_trio.config import Config, EngineConfig, ServerConfig
from csm_trio.engine.in_process import open_engine
from csm_trio.engine.scheduler import BufferTargets, Runner
from csm_trio.engine.service import Engine
from csm_trio.errors import EngineFailed, ServerLeaving, StartupError
from csm_trio.pipeline.context import Synthesizer
from csm_trio.process_tuning import raise_descriptor_limit
from csm_trio.telemetry import Metrics, observed_gc
from csm_trio.tracing.setup import open_tracer
from csm_trio.voice_store.encoder_process import EncodeVoices, encode_voices
from csm_trio.voice_store.store import VoiceStore
from csm_trio.watched_files import ReloadRequests, watch_files

logger = logging.getLogger(__name__)

BACKLOG = 1024
"""Connections that may wait to be accepted."""
_PROBE_S = 0.5
"""Seconds between two probes of the event loop."""
FAILURE_GRACE_S = 0.6
"""Time that sessions have to tell their clients that the engine has failed."""
CLEANUP_S = 3.0
"""Time that sessions cancelled at the end of the drain have for their clean-up."""
_KEEPALIVE_S = 20
_RESERVED_DESCRIPTORS = 64
"""File descriptors that connections leave to the rest of the process."""


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that has opened its port."""

    port: int
    state: ServerState


async def serve(
    config: Config,
    make_runner: Callable[[], Runner],
    *,
    encode: EncodeVoices = encode_voices,
    limits: ConnectionLimits | None = None,
    task_status: trio.TaskStatus["Serving"] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Assemble the server and serve until a signal; the engine outlives its sessions.

    `make_runner` runs on the device thread; `encode` encodes the clips of voices. Reports a
    `Serving` once the port is open. Raises `StartupError` where the port cannot be bound or the
    runner cannot be made.
    """
    metrics = Metrics()
    store, keys = VoiceStore(config, encode), KeyStore(config.server)
    certificates = CertificateStore(config.server)
    tls = ServerTls(certificates.certificate)
    # Bound before the model loads, so that a port in use is an error at once, not minutes later;
    # listening begins only when the engine is warm.
    with (
        bound_socket(config.server) as bound,
        agent_socket(config.server) as agent_bound,
        observed_gc(metrics),
        open_tracer(config, metrics) as tracer,
    ):
        await store.load()
        async with open_engine(
            make_runner,
            metrics,
            targets=buffer_targets(config.engine),
            failure_grace_s=FAILURE_GRACE_S,
        ) as engine:
            sessions = local_sessions(config.server, engine.slots, metrics)
            state = ServerState(
                engine=engine,
                synthesizer=Synthesizer(engine, config.speech, metrics, tracer),
                admission=Admission(sessions),
                metrics=metrics,
                server=config.server,
                speech=config.speech,
                shared=LocalSharedState(config.speech, metrics, store, keys),
            )
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                listener = listen(bound)
                log_listening(bound, engine.slots, sessions.limit, secure=tls.context is not None)
                async with trio.open_nursery() as nursery:
                    reloads = await start_reloads(nursery)
                    start_reading_voices(nursery, store, reloads)
                    start_reading_keys(nursery, keys, reloads, sessions)
                    start_reading_certificate(nursery, certificates, reloads, tls.replace)
                    start_agent_check(
                        nursery, agent_bound, agent_check_of(state, sessions), metrics
                    )
                    async with trio.open_nursery() as serving:
                        await serving.start(
                            partial(serve_clients, state, listener, signals, limits=limits, tls=tls)
                        )
                        task_status.started(Serving(bound.getsockname()[1], state))
                    nursery.cancel_scope.cancel()


def agent_check_of(state: ServerState, sessions: LocalSessions) -> AgentCheck:
    """Return the agent check of a server of one process."""
    return AgentCheck(
        sessions,
        state.engine.slots,
        is_draining=lambda: state.admission.draining,
        count_used_slots=state.engine.count_used_slots,
    )


def start_agent_check(
    nursery: trio.Nursery, bound: socket.socket | None, check: AgentCheck, metrics: Metrics
) -> None:
    """Answer the agent check on a bound socket, where there is one."""
    if bound is not None:
        logger.info("agent check on port %d", bound.getsockname()[1])
        nursery.start_soon(check.run, listen(bound), metrics)


async def start_reloads(nursery: trio.Nursery) -> ReloadRequests:
    """Have SIGHUP request that files be read again."""
    reloads = ReloadRequests()
    await nursery.start(reloads.run)
    return reloads


def start_reading_keys(
    nursery: trio.Nursery,
    keys: KeyStore,
    reloads: ReloadRequests,
    sessions: LocalSessions,
    distribute: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
) -> None:
    """Have the API keys read again at a reload and when their file changes, then `distribute`."""

    async def on_change() -> None:
        sessions.count_keys(keys.keys.names)
        await distribute()

    sessions.count_keys(keys.keys.names)
    if keys.paths():
        nursery.start_soon(watch_files, keys.paths, partial(keys.read_again, on_change), reloads)


def start_reading_certificate(
    nursery: trio.Nursery,
    certificates: CertificateStore,
    reloads: ReloadRequests,
    distribute: Callable[[Certificate], Awaitable[None]],
) -> None:
    """Have the certificate read again at a reload and when its files change, then `distribute`."""
    if certificates.paths():
        on_change = partial(certificates.read_again, distribute)
        nursery.start_soon(watch_files, certificates.paths, on_change, reloads)


def start_reading_voices(
    nursery: trio.Nursery,
    store: VoiceStore,
    reloads: ReloadRequests,
    on_change: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
) -> None:
    """Have the voices read again at a reload and when their files change, then call `on_change`."""
    nursery.start_soon(store.run, on_change)
    if store.has_files:
        nursery.start_soon(watch_files, store.paths, store.read_again, reloads)


async def serve_clients(
    state: ServerState,
    listener: trio.abc.Listener[trio.SocketStream],
    stop_requests: AsyncIterator[object],
    *,
    limits: ConnectionLimits | None = None,
    tls: ServerTls | None = None,
    on_close: Callable[[], None] = lambda: None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the connections of a listener until stop requests come.

    The first begins the drain, the second ends it. `on_close` is called when a connection has
    ended.
    """
    app = create_app(state)
    connections = Connections(
        app,
        limits or _connection_limits(state.server),
        state.metrics,
        error_body=connection_error_body,
        body_limit=app.body_limit,
        limit=_max_connections(),
        tls=lambda: None if tls is None else tls.context,
        on_close=on_close,
    )
    until_stopped = partial(_drain_at_request, state.admission, state.server, stop_requests)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_abort_at_failure, state.engine, state.admission)
        nursery.start_soon(_probe_event_loop, state.metrics)
        async with trio.open_nursery() as serving:
            serve_connections = partial(connections.serve, cleanup_s=CLEANUP_S)
            await serving.start(serve_connections, listener, until_stopped)
            task_status.started()
        nursery.cancel_scope.cancel()


def buffer_targets(config: EngineConfig) -> BufferTargets:
    """Return the scheduler's targets that the settings name."""
    return BufferTargets(config.low_water_s, config.high_water_s)


def local_sessions(config: ServerConfig, slots: int, metrics: Metrics) -> LocalSessions:
    """Return the sessions of a whole server, by default as many as there are slots."""
    return LocalSessions(
        config.max_sessions or slots, metrics, wait_s=config.admission_wait_ms / 1000
    )


def listen(bound: socket.socket) -> trio.SocketListener:
    """Begin to listen on a bound socket, of which the listener is the owner from now on."""
    bound.listen(BACKLOG)
    return trio.SocketListener(trio.socket.from_stdlib_socket(bound))


def log_listening(
    bound: socket.socket, slots: int, sessions: int, workers: int = 0, *, secure: bool
) -> None:
    """Log the address of a server, and how much it serves at once."""
    host, port = bound.getsockname()[:2]
    more = f", {workers} workers" if workers else ""
    scheme = "https" if secure else "http"
    logger.info(
        "listening on %s://%s:%d, %d slots, %d sessions%s",
        *(scheme, host, port, slots, sessions, more),
    )


@contextmanager
def agent_socket(config: ServerConfig) -> Iterator[socket.socket | None]:
    """Bind the port of the agent check, and close it at exit; None where the settings name none.

    Raises `StartupError` where the address cannot be bound.
    """
    if config.agent_port is None:
        yield None
        return
    with _bound_socket(config, config.agent_port, "--agent-port") as bound:
        yield bound


def bound_socket(config: ServerConfig) -> socket.socket:
    """Bind the port of the clients; accepted sockets inherit its options.

    Raises `StartupError` where the address cannot be bound.
    """
    return _bound_socket(config, config.port, "--port")


def _bound_socket(config: ServerConfig, port: int, flag: str) -> socket.socket:
    """Bind a port; accepted sockets inherit these options.

    Raises `StartupError` where the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Keep-alives find connections that died silently, at no cost to the event loop.
    if hasattr(socket, "TCP_KEEPIDLE"):
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_S)
    # Ends the connection of a client that reads nothing.
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        timeout_ms = round(1000 * config.user_timeout_s)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
    try:
        bound.bind((config.host, port))
    except OSError as error:
        bound.close()
        raise StartupError(
            f"--host {config.host} {flag} {port}: cannot listen there ({error.strerror})."
        ) from error
    return bound


def _max_connections() -> int:
    descriptors = raise_descriptor_limit()
    return max(descriptors // 2, descriptors - _RESERVED_DESCRIPTORS)


def _connection_limits(config: ServerConfig) -> ConnectionLimits:
    return ConnectionLimits(max_message_bytes=config.max_message_bytes)


async def _drain_at_request(
    admission: Admission, config: ServerConfig, stop_requests: AsyncIterator[object]
) -> None:
    """Wait for a stop request, then for the sessions to end; a second request ends the wait."""
    await anext(stop_requests)
    logger.info("draining: no new sessions; open ones have up to %.0f s to end", config.drain_s)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_at_request, stop_requests, nursery.cancel_scope)
        with trio.move_on_after(config.drain_s):
            await admission.drain()
        nursery.cancel_scope.cancel()
    # Sessions that are still open send this error to their clients.
    admission.abort(ServerLeaving())


async def _probe_event_loop(metrics: Metrics) -> NoReturn:
    """Measure how late the event loop runs this task."""
    while True:
        due_s = trio.current_time() + _PROBE_S
        await trio.sleep_until(due_s)
        metrics.event_loop_lag_s.observe(trio.current_time() - due_s)


async def _abort_at_failure(engine: Engine, admission: Admission) -> None:
    await engine.stopped.wait()
    admission.abort(EngineFailed())


async def _cancel_at_request(stop_requests: AsyncIterator[object], scope: trio.CancelScope) -> None:
    await anext(stop_requests)
    scope.cancel()
