"""Run a batch: what is finished stays, the rest is spread over the servers, all of it is recorded.

A task per item in flight; an item that fails waits and asks for a server again.
"""

import random
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

import trio

from csm_trio.batch.flags import STANDARD_INPUT, BatchOptions
from csm_trio.batch.http_exchange import AnswerLost, ServerUnreachable
from csm_trio.batch.item import BadInput, Item
from csm_trio.batch.items import read_items
from csm_trio.batch.join import Part, join
from csm_trio.batch.manifest import Entry, OutputFolder
from csm_trio.batch.progress import Tally, clock, show_progress
from csm_trio.batch.report import EXIT_SOME_FAILED, Failure, exit_status, remarks, summary
from csm_trio.batch.servers import NoServer, Server, ServerPool
from csm_trio.batch.speech_exchange import (
    AttemptFailed,
    ItemRefused,
    KeyRefused,
    ServerBusy,
    request_sessions,
)
from csm_trio.batch.synthesize import synthesize
from csm_trio.client_flags import EXIT_INTERRUPTED
from csm_trio.errors import first_leaf

_RETRY_S, _MAX_RETRY_S = 0.5, 20.0


def run_batch(options: BatchOptions, stderr: TextIO | None = None) -> int:
    """Run a batch; return its exit status: 0 all, 1 some failed, 2 nothing could be done."""
    stderr = sys.stderr if stderr is None else stderr
    try:
        items = read_items(_read_source(options.source), options.kind, options.defaults)
    except BadInput as error:
        raise BadInput(f"{options.source}: {error}.") from None
    with OutputFolder(options.out) as folder:
        _check_join_path(options, items)
        return trio.run(BatchRun(options, items, folder, stderr).run)


def _check_join_path(options: BatchOptions, items: Sequence[Item]) -> None:
    """Raise `BadInput` where the joined file could not be written hours later."""
    path = options.join_path
    if path is None:
        return
    if not path.parent.is_dir():
        raise BadInput(f"Cannot write {path}: there is no folder {path.parent}.")
    in_folder = path.parent.resolve() == options.out.resolve()
    if in_folder and path.name.casefold() in {item.file.casefold() for item in items}:
        raise BadInput(f"Cannot write {path}: it is the file of an item.")


def _read_source(source: str) -> bytes:
    try:
        if source == STANDARD_INPUT:
            return sys.stdin.buffer.read()
        return Path(source).read_bytes()
    except OSError as error:
        raise BadInput(f"it cannot be read: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class _Again:
    """Another attempt is due after `wait_s`; it is one of `--retries` where `counts`."""

    reason: str
    wait_s: float = 0.0
    counts: bool = False


class BatchRun:
    """One run: its items, its folder, its servers, and what has become of each item."""

    def __init__(
        self, options: BatchOptions, items: Sequence[Item], folder: OutputFolder, stderr: TextIO
    ) -> None:
        self._options = options
        self._items = items
        self._folder = folder
        self._stderr = stderr
        self._entries: dict[str, Entry] = {}
        self._failures: list[Failure] = []
        self._stopped = False
        probe = partial(request_sessions, api_key=options.api_key)
        self._pool = ServerPool(options.urls, probe, patience_s=options.patience_s)
        # One writer: the manifest's lines must not mix.
        self._disk = trio.CapacityLimiter(1)

    async def run(self) -> int:
        """Synthesize what is missing, join, report; return the exit status.

        Raises `BadInput` where finished files cannot be read or moved.
        """
        begun_s = trio.current_time()
        try:
            self._entries = await trio.to_thread.run_sync(self._folder.keep, self._items)
        except OSError as error:
            raise BadInput(f"Cannot write to {self._options.out}: {error.strerror}.") from None
        todo = [item for item in self._items if item.file not in self._entries]
        chars = sum(len(item.text) for item in todo)
        self._tally = Tally(len(self._items), len(self._entries), chars, begun_s)
        disk_problem = await self._synthesize_all(todo) if todo else None
        status = exit_status(self._tally)
        lines = summary(self._tally, self._failures, trio.current_time() - begun_s)
        for item in self._items:
            if item.file in self._entries:
                lines += remarks(item, self._entries[item.file])
        if disk_problem is not None:
            lines.append(f"csm-trio batch: {disk_problem}")
        elif not self._stopped:
            try:
                lines += await self._join()
            except BadInput as error:
                status = status or EXIT_SOME_FAILED
                lines.append(f"csm-trio batch: {error}")
        for line in lines:
            print(line, file=self._stderr)
        if self._stopped:
            print("stopped: the same command goes on from here", file=self._stderr)
            return EXIT_INTERRUPTED
        return status

    async def _synthesize_all(self, todo: Sequence[Item]) -> BaseException | None:
        """Synthesize items until all have ended or a signal comes; return a failure of the disk."""
        problem: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._stop_on_signal, nursery.cancel_scope)
                nursery.start_soon(self._pool.watch)
                nursery.start_soon(show_progress, self._tally, self._pool.problem, self._stderr)
                async with trio.open_nursery() as attempts:
                    for item in todo:
                        server = await self._server_for(item)
                        if server is not None:
                            attempts.start_soon(self._synthesize_one, item, server)
                nursery.cancel_scope.cancel()
        except* BadInput as group:
            problem = first_leaf(group)
        return problem

    async def _stop_on_signal(
        self, scope: trio.CancelScope, task_status: trio.TaskStatus[None]
    ) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                self._stopped = True
                scope.cancel()

    async def _server_for(self, item: Item) -> Server | None:
        """Wait for a server; without any, the item fails."""
        try:
            return await self._pool.acquire()
        except NoServer as error:
            self._fail(item, str(error))
            return None

    async def _synthesize_one(self, item: Item, server: Server | None) -> None:
        failed = 0
        while server is not None:
            again = await self._attempt(item, server)
            if again is None:
                return
            failed += again.counts
            if failed > self._options.retries:
                self._fail(item, f"{again.reason} ({failed} attempts)")
                return
            wait_s = again.wait_s if not again.counts else _RETRY_S * 2 ** (failed - 1)
            await trio.sleep(min(wait_s, _MAX_RETRY_S) * random.uniform(0.5, 1.5))
            server = await self._server_for(item)

    async def _attempt(self, item: Item, server: Server) -> _Again | None:
        """Synthesize an item on a server; return None where it has ended, well or not."""
        try:
            try:
                spoken = await synthesize(item, server, self._options.api_key)
            finally:
                self._pool.release(server)
        except ItemRefused as error:
            self._fail(item, str(error))
            return None
        except ServerBusy as error:
            server.pause(trio.current_time(), error.retry_after_s)
            return _Again(str(error))
        except KeyRefused as error:
            server.refuse(str(error))
            self._pool.notify()
            return _Again(str(error))
        except ServerUnreachable as error:
            server.fail(str(error))
            return _Again(str(error))
        except (AnswerLost, AttemptFailed) as error:
            return _Again(str(error), counts=True)
        try:
            await trio.to_thread.run_sync(
                self._folder.write, spoken.entry, spoken.audio, limiter=self._disk
            )
        except OSError as error:
            raise BadInput(f"Cannot write {item.file}: {error.strerror}.") from None
        self._entries[item.file] = spoken.entry
        self._tally.done += 1
        self._tally.audio_s += spoken.entry.audio_s
        self._tally.chars_ended += len(item.text)
        return None

    def _fail(self, item: Item, reason: str) -> None:
        self._failures.append(Failure(item, reason))
        self._tally.failed += 1
        self._tally.chars_ended += len(item.text)

    async def _join(self) -> list[str]:
        """Join the files where that is asked for; return what to report about it."""
        path = self._options.join_path
        if path is None:
            return []
        if missing := len(self._items) - len(self._entries):
            return [f"not joined: {missing} items are missing"]
        parts = _parts(self._items, self._entries, self._options.pause_s)
        duration_s = await trio.to_thread.run_sync(join, parts, self._folder.read, path)
        return [f"joined: {path} ({clock(duration_s)})"]


def _parts(items: Sequence[Item], entries: Mapping[str, Entry], pause_s: float) -> list[Part]:
    """Return where each item's audio stands in the whole.

    Chapters begin where the input names another one; where it names none, each item is one.
    """
    parts: list[Part] = []
    at_s, chapter = 0.0, None
    named = any(item.chapter for item in items)
    for item in items:
        entry = entries[item.file]
        start_s = at_s if item.start_s is None else item.start_s
        title = None if named else item.text
        if item.chapter and item.chapter != chapter:
            title = chapter = item.chapter
        parts.append(Part(item.file, item.audio_format, start_s, entry.audio_s, title))
        at_s = start_s + entry.audio_s + (pause_s if item.pause_s is None else item.pause_s)
    return parts
