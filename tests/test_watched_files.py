"""Watched files: what counts as a change, and SIGHUP."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trio.testing

from csm_trio.watched_files import ReloadRequests, watch_files

GUARD_S = 20.0


class Changes:
    """Counts calls; the test waits for the next one."""

    def __init__(self) -> None:
        self.count = 0
        self._next = trio.Event()

    async def note(self) -> None:
        self.count += 1
        self._next.set()
        await trio.lowlevel.checkpoint()

    async def next(self) -> None:
        await self._next.wait()
        self._next = trio.Event()


@asynccontextmanager
async def watching(*paths: Path, period_s: float = 0.01) -> AsyncIterator[Changes]:
    changes, reloads = Changes(), ReloadRequests()
    with trio.fail_after(GUARD_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(reloads.run)

            async def watch() -> None:
                await watch_files(lambda: paths, changes.note, reloads, period_s=period_s)

            nursery.start_soon(watch)
            yield changes
            nursery.cancel_scope.cancel()


async def test_the_first_look_and_every_change_are_noticed(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    async with watching(file, folder) as changes:
        await changes.next()
        file.write_text("a")
        await changes.next()
        file.write_text("bc")
        await changes.next()
        replacement = tmp_path / "new"
        replacement.write_text("de")
        os.utime(replacement, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
        replacement.replace(file)
        await changes.next()
        file.unlink()
        await changes.next()
        folder.mkdir()
        await changes.next()
        (folder / "entry").mkdir()
        await changes.next()
    assert changes.count == 7


async def test_sighup_is_a_change_of_unchanged_files_and_ends_nothing(tmp_path: Path) -> None:
    async with watching(tmp_path / "none", period_s=3600) as changes:
        for _ in range(2):
            await trio.testing.wait_all_tasks_blocked()
            os.kill(os.getpid(), signal.SIGHUP)
            await changes.next()
    assert changes.count == 2
