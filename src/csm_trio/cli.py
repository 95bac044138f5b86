"""The commands: parse flags, assemble the house, run it. The only room that sees all of Config."""

import argparse
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial

import trio
from hypercorn.config import Config as HypercornConfig

from csm_trio.api.admission import Admission
from csm_trio.api.app import create_app
from csm_trio.api.connections import serve_connections
from csm_trio.api.state import ServerState
from csm_trio.bench.engine.command import (
    add_engine_bench_flags,
    bench_engine,
    check_for_load,
    read_engine_bench_options,
)
from csm_trio.bench.load.command import bench
from csm_trio.bench.load.flags import add_bench_flags, read_bench_options
from csm_trio.config import Config, ServerConfig, add_flags, load_config
from csm_trio.engine.scheduler import BufferTargets, Runner
from csm_trio.engine.service import open_engine
from csm_trio.engine.triton_cache import share_inductor_cache
from csm_trio.errors import StartupError, first_leaf
from csm_trio.pipeline.context import Synthesizer
from csm_trio.pipeline.request_history import RequestHistory
from csm_trio.process_tuning import tuned_gc
from csm_trio.say import add_say_flags, read_say_options, say
from csm_trio.telemetry import Metrics, configure_logging
from csm_trio.voices import VoiceCatalog

logger = logging.getLogger(__name__)

_BACKLOG = 1024
_GRACE_S = 3.0
"""After the drain: what calls that are cut off have for their clean-up."""
_SWITCH_INTERVAL_S = 0.0005
"""How long the event loop may keep the interpreter lock from the device thread (Python: 5 ms)."""
_KEEPALIVE_S = 20
_SILENCE_S = 7200
"""How long a client may send nothing: longer than the longest text takes to be heard."""


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that has opened its port."""

    port: int
    state: ServerState


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except StartupError as error:
        print(f"csm-trio: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="csm-trio",
        description="Streaming text-to-speech with CSM-1B behind ElevenLabs' protocol.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    serving = commands.add_parser("serve", help="serve speech", allow_abbrev=False)
    add_flags(serving)
    serving.set_defaults(run=_serve_command)
    saying = commands.add_parser("say", help="speak a text through a server", allow_abbrev=False)
    add_say_flags(saying, os.environ)
    saying.set_defaults(run=_say_command)
    loading = commands.add_parser(
        "bench",
        help="put a server under the load of paced calls, or time the engine alone",
        allow_abbrev=False,
    )
    add_bench_flags(loading, os.environ)
    add_engine_bench_flags(loading)
    loading.set_defaults(run=_bench_command)
    listing = commands.add_parser(
        "voices", help="list the voice ids that serve would know", allow_abbrev=False
    )
    add_flags(listing)
    listing.set_defaults(run=_voices_command)
    return parser


def _voices_command(options: argparse.Namespace) -> int:
    config = load_config(vars(options), os.environ)
    for voice in VoiceCatalog.load(config.speech.voices_file).all():
        print(f"{voice.voice_id}\tspeaker {voice.speaker_id}\t{voice.name}")
    return 0


def _say_command(options: argparse.Namespace) -> int:
    return trio.run(say, read_say_options(options))


def _bench_command(options: argparse.Namespace) -> int:
    if not options.engine:
        check_for_load(options)
        return trio.run(bench, read_bench_options(options))
    asked = read_engine_bench_options(options, os.environ)
    configure_logging(asked.log_level)
    share_inductor_cache(os.environ)
    return bench_engine(asked)


def _serve_command(options: argparse.Namespace) -> int:
    config = load_config(vars(options), os.environ)
    configure_logging(config.log_level)
    share_inductor_cache(os.environ)
    # torch takes seconds to import: `say` and `voices` do without.
    from csm_trio.engine.load import load_runner

    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    try:
        with tuned_gc():
            trio.run(serve, config, partial(load_runner, config.engine))
    except* StartupError as group:
        raise first_leaf(group) from None
    except* KeyboardInterrupt:
        raise KeyboardInterrupt from None
    return 0


async def serve(
    config: Config,
    make_runner: Callable[[VoiceCatalog], Runner],
    *,
    task_status: trio.TaskStatus["Serving"] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Assemble the house and serve until a signal; the engine outlives its users.

    `make_runner` runs on the device thread. Reports where it serves once the port is open.
    """
    metrics = Metrics()
    voices = VoiceCatalog.load(config.speech.voices_file)
    # Bound before the model loads, so that a port in use is not found out minutes later; it
    # listens only once the engine is warm.
    with _bound_socket(config.server) as bound:
        targets = BufferTargets(config.engine.low_water_s, config.engine.high_water_s)
        async with open_engine(partial(make_runner, voices), metrics, targets=targets) as engine:
            admission = Admission(config.server.max_sessions or engine.slots, metrics)
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
            async with trio.open_nursery() as nursery:
                await nursery.start(
                    serve_connections,
                    create_app(state),
                    _hypercorn_config(config.server),
                    bound,
                    partial(_leave_when_told, admission, config.server),
                )
                task_status.started(Serving(port, state))


def _bound_socket(config: ServerConfig) -> socket.socket:
    """Bind the port; accepted sockets inherit these options.

    TCP_USER_TIMEOUT ends the connection of a listener who takes nothing: hypercorn shields its
    writes, so no deadline of ours could. Keep-alives find the silent dead: hypercorn's own
    WebSocket pings would leave a task behind for up to their interval after every close.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_S)
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


def _hypercorn_config(config: ServerConfig) -> HypercornConfig:
    settings = HypercornConfig()
    # Its default is none at all, and there are connections that it neither ends nor calls idle:
    # one whose upgrade it refused, HTTP/2's before the first request.
    settings.read_timeout = _SILENCE_S
    settings.graceful_timeout = _GRACE_S
    settings.websocket_max_message_size = config.max_message_bytes
    settings.loglevel = "WARNING"
    settings.include_server_header = False
    return settings


async def _leave_when_told(admission: Admission, config: ServerConfig) -> None:
    """Wait for SIGTERM or SIGINT, then for the calls to end; a second signal ends the wait."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        await anext(signals)
        logger.info("draining: no new calls; up to %.0f s for those inside", config.drain_s)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_at_signal, signals, nursery.cancel_scope)
            with trio.move_on_after(config.drain_s):
                await admission.drain()
            nursery.cancel_scope.cancel()


async def _cancel_at_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    await anext(signals)
    scope.cancel()
