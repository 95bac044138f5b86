"""A worker process: sockets, sessions, text, timestamps and encoding, without a model.

Its engine is at the other end of a socket. It ends with the supervisor, whose channel then closes.
"""

import contextlib
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import trio

from csm_trio.api.admission import Admission
from csm_trio.api.api_keys import ApiKeys
from csm_trio.api.connection_limits import ConnectionLimits
from csm_trio.api.state import ServerState
from csm_trio.api.tls import ServerTls
from csm_trio.engine.remote import open_remote_engine
from csm_trio.errors import ServerLeaving
from csm_trio.metrics_snapshot import Snapshot, take_snapshot
from csm_trio.pipeline.context import Synthesizer
from csm_trio.processes.control_channel import ControlChannel
from csm_trio.processes.handover import HandedOver
from csm_trio.processes.setup import WorkerSetup
from csm_trio.processes.worker_state import SupervisedSessions, SupervisedState
from csm_trio.protocol.voice_settings import VoiceSettings
from csm_trio.server import serve_clients
from csm_trio.telemetry import Metrics, observed_gc
from csm_trio.tracing.setup import open_tracer
from csm_trio.voices import VoiceCatalog


@dataclass(frozen=True, slots=True)
class WorkerSockets:
    """A worker's sockets: to the supervisor, for connections, and to the engine process."""

    control: socket.socket
    handover: socket.socket
    engine: socket.socket


async def run_worker(
    setup: WorkerSetup,
    sockets: WorkerSockets,
    *,
    limits: ConnectionLimits | None = None,
    supervisor_lost: Callable[[], None] = lambda: None,
    task_status: trio.TaskStatus[ServerState] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the connections that the supervisor hands over, until it says stop or is gone.

    `supervisor_lost` is called in the latter case.
    """
    metrics = Metrics()
    # Two requests at most matter: begin the drain, and end it.
    request_stop, stop_requests = trio.open_memory_channel[str](2)
    with ExitStack() as stack:
        tracer = stack.enter_context(open_tracer(setup.config, metrics, worker=setup.name))
        stack.enter_context(observed_gc(metrics))
        stack.enter_context(request_stop)
        stack.enter_context(stop_requests)
        commands = _Commands(metrics, request_stop)
        # The supervisor has checked it; read from files here, it could be another one by now.
        tls = ServerTls(setup.certificate)
        control = ControlChannel(
            sockets.control,
            {
                "ping": commands.ping,
                "collect": commands.collect,
                "set_voices": commands.set_voices,
                "set_keys": commands.set_keys,
                "set_certificate": tls.replace,
                "count_used_slots": commands.count_used_slots,
            },
            {"stop": commands.stop},
        )
        commands.shared = SupervisedState(control, setup.voices, setup.voice_edits, setup.keys)
        async with (
            trio.open_nursery() as nursery,
            open_remote_engine(sockets.engine, setup.slots, metrics) as engine,
        ):
            commands.count_slots = engine.count_used_slots
            admission = Admission(SupervisedSessions(control, setup.sessions))
            state = ServerState(
                engine=engine,
                synthesizer=Synthesizer(engine, setup.config.speech, metrics, tracer),
                admission=admission,
                metrics=metrics,
                server=setup.config.server,
                speech=setup.config.speech,
                shared=commands.shared,
            )
            nursery.start_soon(_run_control, control, admission, commands.stop, supervisor_lost)
            serve = partial(
                serve_clients, limits=limits, tls=tls, on_close=partial(control.notify, "closed")
            )
            async with trio.open_nursery() as serving:
                await serving.start(serve, state, HandedOver(sockets.handover), stop_requests)
                control.notify("ready")
                task_status.started(state)
            nursery.cancel_scope.cancel()


async def _run_control(
    control: ControlChannel,
    admission: Admission,
    stop: Callable[[], None],
    supervisor_lost: Callable[[], None],
) -> None:
    """Serve the channel; when the supervisor is gone, end all sessions, and this process."""
    await control.run()
    supervisor_lost()
    admission.abort(ServerLeaving())
    stop()
    stop()


class _Commands:
    """What the supervisor may call."""

    def __init__(self, metrics: Metrics, request_stop: trio.MemorySendChannel[str]) -> None:
        self._metrics = metrics
        self._request_stop = request_stop
        self.shared: SupervisedState
        self.count_slots: Callable[[], Awaitable[int | None]]

    async def ping(self) -> None:
        """Show that the event loop runs."""
        await trio.lowlevel.checkpoint()

    async def collect(self) -> Snapshot:
        """Return the metrics of this process."""
        await trio.lowlevel.checkpoint()
        return take_snapshot(self._metrics.registry)

    async def set_voices(self, catalog: VoiceCatalog, edits: Mapping[str, VoiceSettings]) -> None:
        """Replace the voices and their edited settings."""
        self.shared.set_voices(catalog, edits)
        await trio.lowlevel.checkpoint()

    async def set_keys(self, keys: ApiKeys) -> None:
        """Replace the API keys."""
        self.shared.set_keys(keys)
        await trio.lowlevel.checkpoint()

    async def count_used_slots(self) -> int | None:
        """Return how many slots this process uses; None where the step loop does not answer."""
        return await self.count_slots()

    def stop(self) -> None:
        """Begin the drain; the second time, end it."""
        # Where it stops already, this changes nothing.
        with contextlib.suppress(
            trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError
        ):
            self._request_stop.send_nowait("stop")
