"""The flags of `csm-trio bench` against a server: a parser in, `BenchOptions` out."""

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

from csm_trio.audio.formats import FORMATS, AudioFormat
from csm_trio.bench.load.audible import DECODABLE
from csm_trio.bench.load.workload import TEXTS, Arrivals, Workload
from csm_trio.client_flags import add_server_flags
from csm_trio.errors import StartupError, UnknownFormat

_MAX_CALLS = 10_000
_MAX_TEXTS_BYTES = 4 << 20

_MAX_RATE_HZ = 10_000
_MAX_CLIENTS = 64
_MAX_SEED = 999_999_999

# Defaults that differ between calls that last and requests that arrive.
_CALLS_DURATION_S, _RATE_DURATION_S = 30.0, 60.0
_CALLS_WORDS_PER_S, _RATE_WORDS_PER_S = 20.0, 0.0

_ONLY_CALLS = ("--calls", "--arrivals", "--ramp-s", "--turn-pause-s", "--barge-in", "--seed")
_ONLY_RATE = ("--warm-up-s", "--seeds")


@dataclass(frozen=True, slots=True)
class RateOptions:
    """The options of open-loop arrivals: a trial for each rate and each seed.

    `clients` is the number of client processes; None leaves it to the rate.
    """

    rates_hz: tuple[float, ...]
    warm_up_s: float = 30.0
    seeds: tuple[int, ...] = (1, 2, 3)
    clients: int | None = None


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """The options of `bench`: a point of the sweep for each number of `calls`.

    With `rate` the requests arrive open-loop instead, and `calls` has no meaning. `clients` is
    the number of client processes that share the calls.
    """

    workload: Workload
    calls: tuple[int, ...] = (1,)
    duration_s: float = 30.0
    json_file: Path | None = None
    plot_file: Path | None = None
    rate: RateOptions | None = None
    clients: int = 1


class _LoadFlag(argparse.Action):
    """Stores a value and the name of its flag: `--engine` rejects these flags."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Store as argparse does, and note the flag in `load_flags`."""
        setattr(namespace, self.dest, values)
        namespace.load_flags = (*getattr(namespace, "load_flags", ()), option_string)


def add_bench_flags(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """Add the flags of `bench`; `CSM_API_KEY` of `environ` is the key's default."""
    parser.add_argument(
        "--json", type=new_file, metavar="FILE", help="write all figures here (unit: path)"
    )
    load = parser.add_argument_group("load on a server")
    _add_server_flags(load, environ)
    _add_load_flags(load)
    _add_rate_flags(load)
    _add_turn_flags(load)
    load.add_argument(
        "--plot",
        action=_LoadFlag,
        type=_svg_file,
        metavar="FILE.svg",
        help="draw first audio (TTFA) and C100 against the number of calls; with --rate audible "
        "first audio and smooth requests against requests a second (unit: path)",
    )


def given_load_flags(flags: argparse.Namespace) -> tuple[str, ...]:
    """Return the names of the parsed flags that are only for a load on a server."""
    return getattr(flags, "load_flags", ())


def _add_server_flags(group: argparse._ArgumentGroup, environ: Mapping[str, str]) -> None:
    add = partial(group.add_argument, action=_LoadFlag)
    add_server_flags(add, environ)
    add(
        "--formats",
        type=_formats,
        default="pcm_24000,ulaw_8000",
        metavar="FORMAT,…",
        help="formats, assigned to calls in rotation (unit: output_format; default: %(default)s)",
    )


def _add_load_flags(group: argparse._ArgumentGroup) -> None:
    add = partial(group.add_argument, action=_LoadFlag)
    add(
        "--calls",
        type=numbers("calls can be held", _MAX_CALLS),
        default="1",
        metavar="N,…",
        help="calls at once; several numbers are a sweep (unit: calls; default: %(default)s)",
    )
    add(
        "--duration-s",
        type=_number(0.01, 86_400),
        metavar="S",
        help="measured time of a number of calls, after the ramp; of a trial of --rate, after the "
        f"warm-up (unit: s; default: {_CALLS_DURATION_S:g}, with --rate {_RATE_DURATION_S:g})",
    )
    add(
        "--arrivals",
        choices=get_args(Arrivals),
        default="poisson",
        help="arrivals of calls: at random in the ramp, evenly in it, or all at once without one "
        "(default: %(default)s)",
    )
    add(
        "--ramp-s",
        type=_number(0, 3_600),
        default="2",
        metavar="S",
        help="time in which the calls begin; not measured (unit: s; default: %(default)s)",
    )
    add(
        "--seed",
        type=int,
        default=1,
        metavar="N",
        help="makes arrivals, texts, pauses and interruptions repeatable (default: %(default)s)",
    )
    add(
        "--clients",
        type=_clients,
        metavar="N",
        help="client processes that share the calls or requests; auto is one for --calls, and for "
        "--rate one for 20 requests a second, or more where they are the limit (unit: processes; "
        "default: auto)",
    )


def _add_rate_flags(group: argparse._ArgumentGroup) -> None:
    add = partial(group.add_argument, action=_LoadFlag)
    add(
        "--rate",
        type=_rates,
        metavar="N,…",
        help="open loop instead of --calls: requests that arrive at random, each a call of its "
        "own, however slow the server is; several rates are a sweep (unit: requests/s)",
    )
    add(
        "--warm-up-s",
        type=_number(0, 3_600),
        default="30",
        metavar="S",
        help="time under the load of --rate before the measured time (unit: s; default: "
        "%(default)s)",
    )
    add(
        "--seeds",
        type=_seeds,
        default="1,2,3",
        metavar="N,…",
        help="a trial of each rate for each of these, which makes its arrivals and texts "
        "repeatable (unit: seeds; default: %(default)s)",
    )


def _add_turn_flags(group: argparse._ArgumentGroup) -> None:
    add = partial(group.add_argument, action=_LoadFlag)
    add(
        "--texts",
        type=_texts,
        metavar="FILE",
        help=f"texts to synthesize, one turn a line (unit: path; default: {len(TEXTS)} built in)",
    )
    add(
        "--words-per-s",
        type=_number(0, 10_000),
        metavar="N",
        help="pace at which text is sent, 0 is at once (unit: words/s; default: "
        f"{_CALLS_WORDS_PER_S:g}, with --rate {_RATE_WORDS_PER_S:g})",
    )
    add(
        "--turn-pause-s",
        type=_number(0, 3_600),
        default="1",
        metavar="S",
        help="mean pause between a call's turns, exponential (unit: s; default: %(default)s)",
    )
    add(
        "--barge-in",
        type=_number(0, 1),
        default="0.2",
        metavar="SHARE",
        help="barge-in: share of turns that the caller interrupts, by a hang-up if audio still "
        "comes (unit: 0 to 1; default: %(default)s)",
    )


def read_bench_options(flags: argparse.Namespace) -> BenchOptions:
    """Return the options in the parsed `flags` of `add_bench_flags`.

    Raises StartupError for flags that have no meaning together.
    """
    open_loop = flags.rate is not None
    _check_together(flags, open_loop=open_loop)
    words_per_s, duration_s = flags.words_per_s, flags.duration_s
    if words_per_s is None:
        words_per_s = _RATE_WORDS_PER_S if open_loop else _CALLS_WORDS_PER_S
    if duration_s is None:
        duration_s = _RATE_DURATION_S if open_loop else _CALLS_DURATION_S
    workload = Workload(
        base_url=flags.url,
        formats=flags.formats,
        voice_id=flags.voice,
        api_key=flags.api_key,
        texts=flags.texts or TEXTS,
        words_per_s=words_per_s,
        turn_pause_s=flags.turn_pause_s,
        barge_in=flags.barge_in,
        arrivals=flags.arrivals,
        ramp_s=flags.ramp_s,
        seed=flags.seed,
    )
    rate = (
        RateOptions(flags.rate, flags.warm_up_s, flags.seeds, flags.clients) if open_loop else None
    )
    return BenchOptions(
        workload, flags.calls, duration_s, flags.json, flags.plot, rate, flags.clients or 1
    )


def _check_together(flags: argparse.Namespace, *, open_loop: bool) -> None:
    excluded = _ONLY_CALLS if open_loop else _ONLY_RATE
    given = [name for name in dict.fromkeys(given_load_flags(flags)) if name in excluded]
    if given and open_loop:
        raise StartupError(
            f"{', '.join(given)}: for calls that last; with --rate each request is a call of its "
            "own (its seeds: --seeds)."
        )
    if given:
        raise StartupError(f"{', '.join(given)}: for open-loop arrivals, with --rate.")
    for audio_format in flags.formats:
        if open_loop and audio_format.codec not in DECODABLE:
            raise StartupError(
                f"--formats {audio_format.name}: with --rate audio must be PCM, WAV, mu-law or "
                "A-law, whose first audible sample can be found."
            )


def _number(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {low:g} to {high:g}")
        return value

    return read


def numbers(what: str, max_value: int) -> Callable[[str], tuple[int, ...]]:
    """Return a parser of lists like 1,8,64 of numbers from 1 to `max_value`; `what` names them."""

    def read(text: str) -> tuple[int, ...]:
        items = text.split(",")
        if not all(item.isascii() and item.isdecimal() for item in items):
            raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers, like 1,8,64")
        values = tuple(int(item[:9]) for item in items)
        if not all(1 <= value <= max_value for value in values):
            raise argparse.ArgumentTypeError(f"from 1 to {max_value} {what}")
        return values

    return read


def _rates(text: str) -> tuple[float, ...]:
    read = _number(0.01, _MAX_RATE_HZ)
    try:
        return tuple(read(item) for item in text.split(","))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of numbers from 0.01 to {_MAX_RATE_HZ}, like 1,8,20"
        ) from None


def _seeds(text: str) -> tuple[int, ...]:
    seeds = numbers("is a seed", _MAX_SEED)(text)
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text!r} names a seed twice")
    return seeds


def _clients(text: str) -> int | None:
    if text == "auto":
        return None
    clients = numbers("client processes can run", _MAX_CLIENTS)(text)
    if len(clients) > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no single number")
    return clients[0]


def _formats(text: str) -> tuple[AudioFormat, ...]:
    try:
        formats = tuple(AudioFormat.parse(name.strip()) for name in text.split(","))
    except UnknownFormat:
        known = ", ".join(FORMATS)
        raise argparse.ArgumentTypeError(f"{text!r} is no list of formats out of {known}") from None
    for audio_format in formats:
        if not audio_format.has_constant_rate:
            raise argparse.ArgumentTypeError(
                f"{audio_format.name} cannot be timed: it has no constant byte rate"
            )
    return formats


def _texts(text: str) -> tuple[str, ...]:
    """Read the texts of a file, one per line; skip blank lines."""
    try:
        with Path(text).open("rb") as file:
            content = file.read(_MAX_TEXTS_BYTES).decode("utf-8")
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"cannot read {text!r}: {error}") from None
    texts = tuple(line.strip() for line in content.splitlines() if line.strip())
    if not texts:
        raise argparse.ArgumentTypeError(f"{text!r} has no text")
    return texts


def new_file(text: str) -> Path:
    """Return the path of a file to write; checked before the sweep, not after it."""
    path = Path(text)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be written: no such folder, or it is one"
        )
    return path


def _svg_file(text: str) -> Path:
    if not text.lower().endswith(".svg"):
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .svg, the one kind drawn")
    return new_file(text)
