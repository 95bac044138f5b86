"""`csm-trio bench --engine`: flags in; a table, a JSON file and an exit code out.

The engine runs in this process, without a server. torch is imported only for the measurement.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TextIO

from csm_trio.bench.load.command import provenance
from csm_trio.bench.load.flags import given_load_flags, numbers
from csm_trio.client_flags import EXIT_FAILED
from csm_trio.config import SETTINGS, EngineConfig, add_flags, load_config
from csm_trio.errors import StartupError

_MAX_ROWS = 1024
_MAX_STEPS = 100_000
_STEPS = 50

_SCHEDULING = ("low_water_s", "high_water_s")
_MODEL_SETTINGS = tuple(
    setting
    for setting in SETTINGS
    if setting.section == "engine" and setting.field not in _SCHEDULING
)


@dataclass(frozen=True, slots=True)
class EngineBenchOptions:
    """Options of `bench --engine`; None leaves the choice to the measurement.

    Empty `transformers_batches` skip the transformers baseline.
    """

    engine: EngineConfig
    batches: tuple[int, ...] | None = None
    steps: int = _STEPS
    transformers_batches: tuple[int, ...] | None = None
    json_file: Path | None = None
    log_level: str = "info"


def add_engine_bench_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--engine` and its flags: the model's, as in `serve`, and those of the measurement."""
    group = parser.add_argument_group("the engine alone")
    add = group.add_argument
    add(
        "--engine",
        action="store_true",
        default=None,
        help="time the engine itself, in this process",
    )
    add(
        "--batches",
        type=numbers("rows make a batch", _MAX_ROWS),
        metavar="N,…",
        help="numbers of rows to time (unit: utterances at once; default: some that fit)",
    )
    add(
        "--steps",
        type=_steps,
        metavar="N",
        help=f"steps timed for each of them (unit: frames of 80 ms; default: {_STEPS})",
    )
    add(
        "--transformers-batches",
        type=_rows_or_none,
        metavar="N,…",
        help="numbers of rows to time transformers' generate with on the same weights; none "
        "leaves it out (unit: utterances at once; default: the smallest and the largest batch)",
    )
    add_flags(group, _MODEL_SETTINGS)


def check_for_load(flags: argparse.Namespace) -> None:
    """Raise StartupError if a flag is given that needs `--engine`."""
    own = ("batches", "steps", "transformers_batches", "config")
    names = [*own, *(setting.key for setting in _MODEL_SETTINGS)]
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(flags, name) is not None]
    if given:
        raise StartupError(
            f"{_listed(given)}: for bench --engine; a server under load has its model already."
        )


def read_engine_bench_options(
    flags: argparse.Namespace, environ: Mapping[str, str]
) -> EngineBenchOptions:
    """Return the options of the parsed flags, with settings from `environ` and `--config`.

    Raises StartupError for an invalid setting, and for a flag that needs a server.
    """
    flags_of_load = given_load_flags(flags)
    if flags_of_load:
        raise StartupError(
            f"{_listed(flags_of_load)}: for a load on a server; bench --engine has none."
        )
    given = {setting.key: getattr(flags, setting.key) for setting in _MODEL_SETTINGS}
    config = load_config(given | {"config": flags.config}, environ)
    return EngineBenchOptions(
        engine=config.engine,
        batches=flags.batches,
        steps=_STEPS if flags.steps is None else flags.steps,
        transformers_batches=flags.transformers_batches,
        json_file=flags.json,
        log_level=config.log_level,
    )


def bench_engine(options: EngineBenchOptions, *, out: TextIO | None = None) -> int:
    """Measure, print the table on `out`, write the JSON file; return the exit code.

    Raises StartupError if the model cannot be loaded or does not fit.
    """
    out = sys.stdout if out is None else out
    from csm_trio.bench.engine.measure import Plan, measure_engine

    plan = Plan(options.batches, options.steps, options.transformers_batches)
    timing = measure_engine(options.engine, plan)
    print(timing.table(), file=out, flush=True)
    if options.json_file is None:
        return 0
    document = provenance("csm-trio bench --engine") | {
        "config": _settings(options.engine) | {"steps": options.steps},
        "engine": timing.to_dict(),
    }
    try:
        text = json.dumps(document, indent=2, allow_nan=False)
        options.json_file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        reason = f"cannot write {error.filename}: {error.strerror}"
        print(f"csm-trio bench: {reason}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _settings(config: EngineConfig) -> dict[str, object]:
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in values.items()
        if name not in _SCHEDULING
    }


def _steps(text: str) -> int:
    steps = numbers("steps can be timed", _MAX_STEPS)(text)
    if len(steps) > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no single number")
    return steps[0]


def _rows_or_none(text: str) -> tuple[int, ...]:
    if text.lower() in ("none", "0"):
        return ()
    return numbers("rows make a batch", _MAX_ROWS)(text)


def _listed(flags: tuple[str, ...] | list[str]) -> str:
    return ", ".join(dict.fromkeys(flags))
