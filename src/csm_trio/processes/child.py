"""The main program of a child process: `python -m csm_trio.processes.child ROLE FD...`.

The descriptors are the control channel, the channel of sockets and, for a worker, the socket to
the engine process. What to do comes as the first message of the control channel.
"""

import importlib
import os
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial

import trio

from csm_trio.config import Config
from csm_trio.log_format import log_uncaught
from csm_trio.process_tuning import tuned_process
from csm_trio.processes.control_channel import receive_first
from csm_trio.processes.setup import EngineSetup, WorkerSetup
from csm_trio.telemetry import configure_logging

_END_S = 5.0
"""Seconds that a child has to end by itself once its supervisor is gone; loading a model takes
longer, and cannot be cancelled."""


def main(arguments: Sequence[str]) -> int:
    """Run one child to its end; return its exit status."""
    # The supervisor answers signals, and its channel ends this process: a terminal and systemd
    # send a signal to every process of the server.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    role, descriptors = arguments[0], [int(one) for one in arguments[1:]]
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    try:
        setup = receive_first(sockets[0])
    except EOFError:
        return 1
    _configure_logging(setup.config, setup.name)
    if role == "engine":
        _run_engine(setup, sockets)
    else:
        _run_worker(setup, sockets)
    return 0


def _end_soon() -> None:
    """Have the kernel end this process, whatever it does, if it does not end by itself."""
    signal.setitimer(signal.ITIMER_REAL, _END_S)


def _run_engine(setup: EngineSetup, sockets: Sequence[socket.socket]) -> None:
    from csm_trio.engine.triton_cache import share_inductor_cache
    from csm_trio.processes.engine_process import EngineSockets, run_engine_process

    # Before torch is imported.
    share_inductor_cache(os.environ)
    module, _, function = setup.runner_factory.partition(":")
    make_runner = partial(getattr(importlib.import_module(module), function), setup.config.engine)
    with tuned_process():
        run = partial(run_engine_process, supervisor_lost=_end_soon)
        trio.run(run, setup, EngineSockets(*sockets), make_runner)


def _run_worker(setup: WorkerSetup, sockets: Sequence[socket.socket]) -> None:
    from csm_trio.processes.worker import WorkerSockets, run_worker

    with tuned_process():
        run = partial(run_worker, supervisor_lost=_end_soon)
        trio.run(run, setup, WorkerSockets(*sockets))


def _configure_logging(config: Config, name: str) -> None:
    key = config.server.api_key
    configure_logging(
        config.log_level,
        log_format=config.log_format,
        secrets=() if key is None else (key,),
        process=name,
        texts=config.speech.log_texts,
    )
    log_uncaught()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
