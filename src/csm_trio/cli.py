"""Parse arguments and run a command; a command's modules are imported inside its functions.

Only `serve`, `voices` and `bench --engine` compose a `Config`; only `serve` imports the server.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from csm_trio.client_flags import EXIT_FAILED, EXIT_INTERRUPTED
from csm_trio.errors import ProcessFailed, StartupError, first_leaf

if TYPE_CHECKING:
    from csm_trio.config import Config

_AddFlags = Callable[[argparse.ArgumentParser], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, by default that of the command line; return its exit status."""
    options = _parser().parse_args(arguments)
    if arguments is None and _runs_engine(options):
        from csm_trio.process_tuning import restart_with_tuned_malloc

        restart_with_tuned_malloc()
    try:
        return int(options.run(options))
    except (StartupError, ProcessFailed) as error:
        print(f"csm-trio: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _runs_engine(options: argparse.Namespace) -> bool:
    return options.run is _serve_command or (options.run is _bench_command and options.engine)


class _CommandParser(argparse.ArgumentParser):
    """The parser of one command, which adds its flags when the command is chosen.

    Adding a command's flags imports its modules; the other commands' modules are not needed.
    """

    def __init__(self, *, add_flags: _AddFlags | None = None, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)
        self._add_flags = add_flags

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Add the command's flags, then parse as argparse does."""
        add_flags, self._add_flags = self._add_flags, None
        if add_flags is not None:
            add_flags(self)
        return super().parse_known_args(args, namespace)


def _parser() -> argparse.ArgumentParser:
    parser = _CommandParser(
        prog="csm-trio",
        description="Streaming text-to-speech with CSM-1B behind ElevenLabs' protocol.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, help_text, add_flags in (
        ("serve", "serve speech", _add_serve_flags),
        ("say", "synthesize a text through a server", _add_say_flags),
        ("batch", "synthesize many texts into files through servers", _add_batch_flags),
        ("bench", "load a server with paced calls, or time the engine alone", _add_bench_flags),
        ("voices", "list, check, add and remove voices", _add_voices_flags),
    ):
        commands.add_parser(name, help=help_text, add_flags=add_flags)
    return parser


def _add_serve_flags(parser: argparse.ArgumentParser) -> None:
    from csm_trio.config import add_flags

    add_flags(parser)
    parser.set_defaults(run=_serve_command)


def _serve_command(options: argparse.Namespace) -> int:
    import trio

    from csm_trio.config import load_config
    from csm_trio.log_format import log_uncaught
    from csm_trio.process_tuning import tuned_process
    from csm_trio.processes.supervisor import supervise
    from csm_trio.processes.worker_count import serves_in_one_process
    from csm_trio.telemetry import configure_logging
    from csm_trio.tracing.setup import check_tracer

    config = load_config(vars(options), os.environ)
    key = config.server.api_key
    configure_logging(
        config.log_level,
        log_format=config.log_format,
        secrets=() if key is None else (key,),
        texts=config.speech.log_texts,
    )
    log_uncaught()
    if options.api_key is not None:
        logging.getLogger(__name__).warning(
            "every user of this machine can read a key given as a flag: use CSM_API_KEY instead"
        )
    failure: BaseException | None = None
    # It requests a reload; before there is something to reload, it must not end the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        check_tracer(config)
        with tuned_process():
            if serves_in_one_process(config):
                _serve_in_one_process(config)
            else:
                trio.run(supervise, config)
    except* (StartupError, ProcessFailed) as group:
        failure = first_leaf(group)
    except* KeyboardInterrupt:
        raise KeyboardInterrupt from None
    if failure is None:
        return 0
    if config.log_format != "json":
        raise failure from None
    logging.getLogger(__name__).critical("%s", failure)
    return EXIT_FAILED


def _serve_in_one_process(config: "Config") -> None:
    import trio

    from csm_trio.engine.triton_cache import share_inductor_cache

    # Before torch is imported.
    share_inductor_cache(os.environ)
    from csm_trio.engine.load import load_runner
    from csm_trio.server import serve

    trio.run(serve, config, partial(load_runner, config.engine))


def _add_say_flags(parser: argparse.ArgumentParser) -> None:
    from csm_trio.say import add_say_flags

    add_say_flags(parser, os.environ)
    parser.set_defaults(run=_say_command)


def _say_command(options: argparse.Namespace) -> int:
    import trio

    from csm_trio.say import read_say_options, say

    return trio.run(say, read_say_options(options))


def _add_batch_flags(parser: argparse.ArgumentParser) -> None:
    from csm_trio.batch.flags import add_batch_flags

    add_batch_flags(parser, os.environ)
    parser.set_defaults(run=_batch_command)


def _batch_command(options: argparse.Namespace) -> int:
    from csm_trio.batch.command import run_command

    return run_command(options)


def _add_bench_flags(parser: argparse.ArgumentParser) -> None:
    from csm_trio.bench.engine.command import add_engine_bench_flags
    from csm_trio.bench.load.flags import add_bench_flags

    add_bench_flags(parser, os.environ)
    add_engine_bench_flags(parser)
    parser.set_defaults(run=_bench_command)


def _bench_command(options: argparse.Namespace) -> int:
    return _bench_engine(options) if options.engine else _bench_load(options)


def _bench_load(options: argparse.Namespace) -> int:
    import trio

    from csm_trio.bench.engine.command import check_for_load
    from csm_trio.bench.load.command import bench
    from csm_trio.bench.load.flags import read_bench_options

    check_for_load(options)
    return trio.run(bench, read_bench_options(options))


def _bench_engine(options: argparse.Namespace) -> int:
    from csm_trio.bench.engine.command import bench_engine, read_engine_bench_options
    from csm_trio.engine.triton_cache import share_inductor_cache
    from csm_trio.telemetry import configure_logging

    bench_options = read_engine_bench_options(options, os.environ)
    configure_logging(bench_options.log_level)
    share_inductor_cache(os.environ)
    return bench_engine(bench_options)


def _add_voices_flags(parser: argparse.ArgumentParser) -> None:
    from csm_trio.voice_store.command import add_voices_flags

    actions = add_voices_flags(parser, os.environ)
    actions.add_parser("say", help="hear a voice of a server", add_flags=_add_voices_say_flags)
    parser.set_defaults(run=_voices_command)


def _add_voices_say_flags(parser: argparse.ArgumentParser) -> None:
    from csm_trio.say import add_say_flags

    parser.add_argument("voice_id", metavar="VOICE", help="the voice's id")
    add_say_flags(parser, os.environ)
    parser.set_defaults(run=_voices_say_command)


def _voices_say_command(options: argparse.Namespace) -> int:
    options.voice = options.voice_id
    return _say_command(options)


def _voices_command(options: argparse.Namespace) -> int:
    from csm_trio.voice_store.command import run_command

    return run_command(options)
