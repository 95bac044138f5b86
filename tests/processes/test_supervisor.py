"""The supervisor over children that do not start, in the test's own loop."""

from dataclasses import replace

import pytest
import trio

from csm_trio.config import Config
from csm_trio.errors import StartupError
from csm_trio.processes.setup import EngineSetup, WorkerSetup
from csm_trio.processes.supervisor import supervise
from csm_trio.processes.worker import WorkerSockets
from csm_trio.processes.worker_count import worker_count
from support.child_tasks import ChildTasks
from support.fakes import SineRunner
from support.serving import TEST_SERVER

GUARD_S = 20.0
CONFIG = Config(server=replace(TEST_SERVER, workers=1))


class WorkersThatFail(ChildTasks):
    """Children of which no worker serves."""

    async def _run_worker(self, setup: WorkerSetup, sockets: WorkerSockets) -> None:
        raise RuntimeError("no such module")


async def test_a_worker_that_cannot_start_is_an_error_of_startup() -> None:
    children = WorkersThatFail(SineRunner)
    expected = pytest.RaisesExc(StartupError, match="worker.*no such module")
    with trio.fail_after(GUARD_S), pytest.RaisesGroup(expected, flatten_subgroups=True):
        await supervise(CONFIG, spawn=children.spawn)


async def test_an_engine_that_cannot_start_is_an_error_of_startup() -> None:
    def make_runner() -> SineRunner:
        raise StartupError("There is no such model.")

    children = ChildTasks(make_runner)
    expected = pytest.RaisesExc(StartupError, match="no such model")
    with trio.fail_after(GUARD_S), pytest.RaisesGroup(expected, flatten_subgroups=True):
        await supervise(CONFIG, spawn=children.spawn)


async def test_an_engine_that_ends_while_it_loads_is_an_error_of_startup() -> None:
    class EnginesThatFail(ChildTasks):
        async def _run_engine(self, setup: EngineSetup, sockets: object) -> None:
            raise MemoryError

    children = EnginesThatFail(SineRunner)
    expected = pytest.RaisesExc(StartupError, match="engine process.*MemoryError")
    with trio.fail_after(GUARD_S), pytest.RaisesGroup(expected, flatten_subgroups=True):
        await supervise(CONFIG, spawn=children.spawn)


@pytest.mark.parametrize(
    ("wanted", "slots", "cores", "count"),
    [
        (None, 64, 16, 1),
        (None, 128, 16, 1),
        (None, 129, 16, 2),
        (None, 512, 16, 4),
        (None, 1_024, 16, 8),
        (None, 4_096, 16, 8),
        (None, 1_024, 8, 6),
        (None, 1_024, 2, 1),
        (3, 1_024, 2, 3),
    ],
)
def test_workers_by_slots_and_cores(wanted: int | None, slots: int, cores: int, count: int) -> None:
    assert worker_count(wanted, slots, cores=cores) == count
