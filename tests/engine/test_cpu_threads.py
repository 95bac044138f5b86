"""CPU threads: one for a small model, else the fewest that read memory about as fast as it can."""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from csm_trio.engine import cpu_threads
from csm_trio.engine.cpu_threads import (
    bound_cpu_threads,
    choose_cpu_threads,
    fewest_threads,
    usable_cores,
)
from csm_trio.model.checkpoint.random_weights import random_weights
from csm_trio.model.checkpoint.read_config import read_config
from csm_trio.model.config import CSMConfig
from csm_trio.model.csm import CSM
from csm_trio.model.linear import Quantization
from support.tiny_csm import write_tiny_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def given_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> CSMConfig:
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))
    return read_config(folder / "config.json", None)


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16, *Quantization], ids=str)
def model(request: pytest.FixtureRequest, sizes: CSMConfig, monkeypatch: pytest.MonkeyPatch) -> CSM:
    """Return a tiny model that counts as a large one."""
    monkeypatch.setattr(cpu_threads, "_SMALL_HIDDEN_SIZE", sizes.backbone.hidden_size - 1)
    quantization = None if isinstance(request.param, torch.dtype) else request.param
    dtype = torch.float32 if quantization else request.param
    model = CSM(sizes, device=CPU)
    model.load(random_weights(sizes, device=CPU, dtype=dtype, quantization=quantization))
    model.pack(quantized=quantization is not None)
    return model


def machine(
    monkeypatch: pytest.MonkeyPatch, folder: Path, siblings: list[str], quotas: dict[str, str]
) -> None:
    """Lay out Linux' files: the hardware threads of each CPU, and the quotas of control groups."""
    for cpu, listed in enumerate(siblings):
        topology = folder / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{listed}\n")
    for group, quota in quotas.items():
        (folder / "cgroup" / group).mkdir(parents=True, exist_ok=True)
        (folder / "cgroup" / group / "cpu.max").write_text(f"{quota}\n")
    (folder / "own").write_text("0::/system.slice/csm.service\n")
    monkeypatch.setattr(cpu_threads, "_CPUS", folder)
    monkeypatch.setattr(cpu_threads, "_CGROUP", folder / "cgroup")
    monkeypatch.setattr(cpu_threads, "_OWN_CGROUP", folder / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(len(siblings))), raising=False)


FOUR_CORES = ["0,4", "1,5", "2,6", "3,7"] * 2


@pytest.mark.parametrize(
    ("siblings", "quotas", "cores"),
    [
        (FOUR_CORES, {}, 4),
        (["0", "1", "2"], {}, 3),
        (FOUR_CORES, {"": "max 100000", "system.slice": "max 100000"}, 4),
        (FOUR_CORES, {"": "250000 100000"}, 2),
        (FOUR_CORES, {"system.slice": "300000 100000", "": "max 100000"}, 3),
        (FOUR_CORES, {"system.slice/csm.service": "10000 50000"}, 1),
        (FOUR_CORES, {"": "1600000 100000"}, 4),
        (FOUR_CORES, {"": "max", "system.slice": "200000"}, 2),
    ],
)
def test_usable_cores_are_bounded_by_siblings_affinity_and_quota(
    siblings: list[str], quotas: dict[str, str], cores: int,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    machine(monkeypatch, tmp_path, siblings, quotas)
    assert usable_cores() == cores


def test_without_linux_files_each_cpu_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, tmp_path, [], {})
    monkeypatch.setattr(cpu_threads, "_OWN_CGROUP", tmp_path / "none")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3}, raising=False)
    assert usable_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == os.cpu_count()


@pytest.mark.parametrize(
    ("rates", "threads"),
    [
        ({8: 40.0, 6: 39.0, 4: 38.1, 3: 33.0, 2: 24.0, 1: 12.0}, 4),
        ({2: 10.0, 1: 12.0}, 1),
        ({64: 100.0}, 64),
        ({4: 40.0, 3: 30.0, 2: 20.0, 1: 10.0}, 4),
    ],
)
def test_the_fewest_threads_within_five_percent_are_enough(
    rates: dict[int, float], threads: int
) -> None:
    assert fewest_threads(rates) == threads


def test_a_small_model_has_one_thread_whatever_the_environment_says(
    sizes: CSMConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for threads in (None, "4"):
        if threads:
            monkeypatch.setenv("OMP_NUM_THREADS", threads)
        torch.set_num_threads(2)
        bound_cpu_threads(sizes)
        choose_cpu_threads(CSM(sizes, device=CPU), rows=1)
        assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("unset")
def test_a_large_model_loads_on_all_cores_and_logs_its_choice(
    model: CSM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cpu_threads, "usable_cores", lambda: 3)
    bound_cpu_threads(model.config)
    assert torch.get_num_threads() == 3
    monkeypatch.setattr(cpu_threads, "_MEASURED_S", 0.01)
    with caplog.at_level(logging.INFO, logger=cpu_threads.__name__):
        choose_cpu_threads(model, rows=2)
    (message,) = caplog.messages
    found = re.fullmatch(
        r"CPU threads: (\d) of 3, which read weights at [\d.]+ GB/s "
        r"\(threads: GB/s: (?:1: [\d.]+, )?(?:2: [\d.]+, )?3: [\d.]+\)",
        message,
    )
    assert found, message
    assert torch.get_num_threads() == int(found[1])


def test_the_environments_number_of_threads_is_taken_as_it_is(
    model: CSM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.set_num_threads(2)  # as OpenMP does where the variable is set before the start
    with caplog.at_level(logging.INFO, logger=cpu_threads.__name__):
        bound_cpu_threads(model.config)
        choose_cpu_threads(model, rows=1)
    assert torch.get_num_threads() == 2
    assert caplog.messages == ["CPU threads: 2, by OMP_NUM_THREADS"]


@pytest.mark.parametrize(
    ("value", "chosen"),
    [("4", True), (" 08 ", True), ("4,2", True)]
    + [(value, False) for value in ("", " ", "0", "abc", "1.5", "-2", ",4", "00")],
)
def test_only_a_number_that_openmp_takes_is_a_choice(
    value: str, chosen: bool, sizes: CSMConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_threads, "_SMALL_HIDDEN_SIZE", sizes.backbone.hidden_size - 1)
    monkeypatch.setattr(cpu_threads, "usable_cores", lambda: 3)
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    torch.set_num_threads(2)
    bound_cpu_threads(sizes)
    assert torch.get_num_threads() == (2 if chosen else 3)


@pytest.mark.usefixtures("unset")
def test_measuring_begins_with_all_threads_and_ends_in_time(
    model: CSM, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock_s, measured, took = [0.0], [], {8: 0.05, 6: 0.05, 4: 0.06, 3: 0.09}

    def pass_s(_model: CSM, rows: int, within_s: float) -> float:
        assert within_s > 0.0
        threads = torch.get_num_threads()
        measured.append((threads, rows))
        clock_s[0] += took[threads]
        return took[threads]

    monkeypatch.setattr(cpu_threads, "_fastest_pass_s", pass_s)
    monkeypatch.setattr("time.perf_counter", lambda: clock_s[0])
    torch.set_num_threads(8)
    choose_cpu_threads(model, rows=5)
    assert measured == [(8, 5), (6, 5), (4, 5), (3, 5)]  # 2 threads might take more than is left
    assert torch.get_num_threads() == 6
