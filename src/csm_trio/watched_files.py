"""Notice that files have changed: by looking at them, and on SIGHUP."""

import signal
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import NoReturn

import trio

WATCH_PERIOD_S = 1.0
"""Seconds between two looks at watched files."""

_Signature = tuple[tuple[Path, tuple[int, int, int] | None], ...]


class ReloadRequests:
    """SIGHUP as an event that comes again and again."""

    def __init__(self) -> None:
        self._requested = trio.Event()

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Receive the signal until cancelled."""
        with trio.open_signal_receiver(signal.SIGHUP) as signals:
            task_status.started()
            async for _ in signals:
                self.request()
        raise AssertionError("signals end with their receiver")

    def request(self) -> None:
        """Have every waiting task reload."""
        self._requested.set()
        self._requested = trio.Event()

    async def wait(self) -> None:
        """Return at the next request."""
        await self._requested.wait()


async def watch_files(
    paths: Callable[[], Iterable[Path]],
    on_change: Callable[[], Awaitable[None]],
    reloads: ReloadRequests,
    *,
    period_s: float = WATCH_PERIOD_S,
) -> NoReturn:
    """Call `on_change` when one of the files has changed, or a reload is requested.

    `paths` is called in a thread, each time anew; a folder changes with its entries. The first
    look counts as a change: what was read before it may be old.
    """
    known: _Signature | None = None
    while True:
        with trio.move_on_after(period_s) as waited:
            await reloads.wait()
        seen = await trio.to_thread.run_sync(_signature, paths)
        if seen != known or not waited.cancelled_caught:
            known = seen
            await on_change()


def _signature(paths: Callable[[], Iterable[Path]]) -> _Signature:
    return tuple((path, _stat(path)) for path in paths())


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
