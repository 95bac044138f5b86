"""`csm-trio serve` with a sine runner at a fixed pace: real processes, no model.

A program: `python -m support.sine_server FLAG...`. The environment's `STEP_S` and `LOAD_S` are the
seconds that a step and the start take.
"""

import os
import sys
import time
import types
from collections.abc import Sequence
from functools import partial

from csm_trio import cli
from csm_trio.config import EngineConfig
from csm_trio.engine.utterance import StepResult
from csm_trio.processes import supervisor
from support.fakes import SineRunner

STEP_S = float(os.environ.get("STEP_S", "0.02"))


class PacedSineRunner(SineRunner):
    """A sine runner whose step takes `STEP_S`."""

    def step(self, slots: Sequence[int]) -> Sequence[StepResult]:
        time.sleep(STEP_S)
        return super().step(slots)


def make_runner(config: EngineConfig) -> SineRunner:
    """Return a runner with as many slots as the settings say."""
    time.sleep(float(os.environ.get("LOAD_S", "0")))
    return PacedSineRunner(config.pool_size or 4)


def _without_torch() -> types.ModuleType:
    """Return what takes the place of the module that loads models, where one process does all."""
    module = types.ModuleType("csm_trio.engine.load")
    vars(module)["load_runner"] = make_runner
    return module


if __name__ == "__main__":
    sys.modules["csm_trio.engine.load"] = _without_torch()
    supervisor.supervise = partial(
        supervisor.supervise, runner_factory="support.sine_server:make_runner"
    )
    sys.exit(cli.main(["serve", *sys.argv[1:]]))
