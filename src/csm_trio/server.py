"""Assemble and run `serve`: the bound socket, its connections, signals and the drain.

Knows no flag and no torch: it is given a `Config` and the function that makes the runner.
"""

import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import trio

from csm_trio.api.admission import Admission
from csm_trio.api.app import connection_error_body, create_app
from csm_trio.api.connection_limits import ConnectionLimits
from csm_trio.api.connections import Connections
from csm_trio.api.state import ServerState
from csm_trio.config import Config, ServerConfig
from csm_trio.engine.in_process import open_engine
from csm_trio.engine.scheduler import BufferTargets, Runner
from csm_trio.engine.service import Engine
from csm_trio.errors import EngineFailed, ServerLeaving, StartupError
from csm_trio.pipeline.context import Synthesizer
from csm_trio.pipeline.request_history import RequestHistory
from csm_trio.process_tuning import raise_descriptor_limit
from csm_trio.telemetry import Metrics, observed_gc
from csm_trio.voices import VoiceCatalog

logger = logging.getLogger(__name__)

_BACKLOG = 1024
_PROBE_S = 0.5
"""Seconds between two probes of the event loop."""
_FAILURE_GRACE_S = 0.6
"""Time that sessions have to tell their clients that the engine has failed."""
_CLEANUP_S = 3.0
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
    make_runner: Callable[[VoiceCatalog], Runner],
    *,
    limits: ConnectionLimits | None = None,
    task_status: trio.TaskStatus["Serving"] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Assemble the server and serve until a signal; the engine outlives its sessions.

    `make_runner` runs on the device thread. Reports a `Serving` once the port is open. Raises
    `StartupError` where the port cannot be bound or the runner cannot be made.
    """
    metrics = Metrics()
    voices = VoiceCatalog.load(config.speech.voices_file)
    # Bound before the model loads, so that a port in use is an error at once, not minutes later;
    # listening begins only when the engine is warm.
    with _bound_socket(config.server) as bound, observed_gc(metrics):
        targets = BufferTargets(config.engine.low_water_s, config.engine.high_water_s)
        async with open_engine(
            partial(make_runner, voices),
            metrics,
            targets=targets,
            failure_grace_s=_FAILURE_GRACE_S,
        ) as engine:
            admission = Admission(
                config.server.max_sessions or engine.slots,
                metrics,
                wait_s=config.server.admission_wait_ms / 1000,
            )
            synthesizer = Synthesizer(engine, config.speech, metrics)
            state = ServerState(
                engine=engine,
                synthesizer=synthesizer,
                voices=voices,
                admission=admission,
                metrics=metrics,
                server=config.server,
                speech=config.speech,
                request_history=RequestHistory(config.speech),
            )
            bound.listen(_BACKLOG)
            host, port = bound.getsockname()[:2]
            logger.info(
                "listening on http://%s:%d, %d slots, %d sessions",
                *(host, port, engine.slots, admission.limit),
            )
            connections = Connections(
                create_app(state),
                limits or _connection_limits(config.server),
                metrics,
                error_body=connection_error_body,
                limit=_max_connections(),
            )
            until_stopped = partial(_drain_at_signal, admission, config.server)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_abort_at_failure, engine, admission)
                nursery.start_soon(_probe_event_loop, metrics)
                async with trio.open_nursery() as serving:
                    serve_connections = partial(connections.serve, cleanup_s=_CLEANUP_S)
                    await serving.start(serve_connections, bound, until_stopped)
                    task_status.started(Serving(port, state))
                nursery.cancel_scope.cancel()


def _bound_socket(config: ServerConfig) -> socket.socket:
    """Bind the port; accepted sockets inherit these options.

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
        bound.bind((config.host, config.port))
    except OSError as error:
        bound.close()
        raise StartupError(
            f"--host {config.host} --port {config.port}: cannot listen there ({error.strerror})."
        ) from error
    return bound


def _max_connections() -> int:
    descriptors = raise_descriptor_limit()
    return max(descriptors // 2, descriptors - _RESERVED_DESCRIPTORS)


def _connection_limits(config: ServerConfig) -> ConnectionLimits:
    return ConnectionLimits(
        max_body_bytes=config.max_body_bytes, max_message_bytes=config.max_message_bytes
    )


async def _drain_at_signal(admission: Admission, config: ServerConfig) -> None:
    """Wait for SIGTERM or SIGINT, then for the sessions to end; a second signal ends the wait."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        await anext(signals)
        logger.info("draining: no new sessions; open ones have up to %.0f s to end", config.drain_s)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_at_signal, signals, nursery.cancel_scope)
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


async def _cancel_at_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    await anext(signals)
    scope.cancel()
