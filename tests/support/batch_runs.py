"""Batches for tests: in the test's own Trio loop, or as a process that can be killed."""

import argparse
import io
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from csm_trio.batch.flags import BatchOptions, add_batch_flags, read_batch_options
from csm_trio.batch.items import read_items
from csm_trio.batch.manifest import MANIFEST_NAME, OutputFolder
from csm_trio.batch.run import BatchRun

_TESTS = Path(__file__).parents[1]
PATHS = {"PYTHONPATH": os.pathsep.join([str(_TESTS), str(_TESTS.parent / "src")])}


@dataclass(frozen=True, slots=True)
class BatchResult:
    """Exit status and lines of standard error of a batch."""

    status: int
    lines: list[str]


def batch_options(*argv: str) -> BatchOptions:
    """Return the options of a command line."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_batch_flags(parser, {})
    return read_batch_options(parser.parse_args(argv))


async def run_batch_here(source: Path, out: Path, *flags: str) -> BatchResult:
    """Run a batch in this Trio loop."""
    options = batch_options(str(source), "--out", str(out), *flags)
    data = await trio.Path(source).read_bytes()
    items = read_items(data, options.kind, options.defaults)
    stderr = io.StringIO()
    with OutputFolder(options.out) as folder:
        status = await BatchRun(options, items, folder, stderr).run()
    return BatchResult(status, stderr.getvalue().splitlines())


def batch_command(source: Path, out: Path, *flags: str) -> list[str]:
    """Return the command line of a batch in a process of its own."""
    return [sys.executable, "-m", "csm_trio", "batch", str(source), "--out", str(out), *flags]


async def run_batch_process(
    source: Path, out: Path, *flags: str, stdin: bytes = b"", stop_after_files: int | None = None
) -> BatchResult:
    """Run a batch in a process of its own to its end, or stop it by SIGINT after some files."""

    async def stop(process: trio.Process, n_files: int) -> None:
        await trio.to_thread.run_sync(_wait_for, lambda: recorded(out) >= n_files)
        process.send_signal(signal.SIGINT)

    async with trio.open_nursery() as nursery:
        run = partial(
            trio.run_process,
            batch_command(source, out, *flags),
            env={**os.environ, **PATHS},
            stdin=stdin,
            stderr=subprocess.PIPE,
            check=False,
        )
        process: trio.Process = await nursery.start(run)
        if stop_after_files is not None:
            nursery.start_soon(stop, process, stop_after_files)
        assert process.stderr is not None
        shown = b"".join([chunk async for chunk in process.stderr])
    assert process.returncode is not None
    return BatchResult(process.returncode, shown.decode().splitlines())


async def kill_batch_process(source: Path, out: Path, *flags: str, after_files: int) -> int:
    """Run a batch and kill it by SIGKILL soon after so many files are recorded.

    Return how many files are recorded then.
    """
    process = await trio.lowlevel.open_process(
        batch_command(source, out, *flags), env={**os.environ, **PATHS}, stderr=subprocess.DEVNULL
    )
    await trio.to_thread.run_sync(
        _wait_for, lambda: process.poll() is not None or recorded(out) >= after_files
    )
    # Otherwise every kill would come just after a line of the manifest.
    await trio.sleep(random.uniform(0.0, 0.2))
    process.kill()
    await process.wait()
    return recorded(out)


def _wait_for(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.002)


def recorded(out: Path) -> int:
    """Count the whole lines of a manifest."""
    try:
        return (out / MANIFEST_NAME).read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def audio_files(out: Path) -> dict[str, bytes]:
    """Return the bytes of every audio file of a folder."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != MANIFEST_NAME}
