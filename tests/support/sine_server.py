"""`csm-trio serve` with workers and a sine runner at a fixed pace: real processes, no model.

A program: `python -m support.sine_server FLAG...`.
"""

import os
import sys
import time
from collections.abc import Sequence
from functools import partial

from csm_trio import cli
from csm_trio.config import EngineConfig
from csm_trio.engine.utterance import StepResult
from csm_trio.processes import supervisor
from support.fakes import SineRunner

STEP_S = 0.02


class PacedSineRunner(SineRunner):
    """A sine runner whose step takes `STEP_S`."""

    def step(self, slots: Sequence[int]) -> Sequence[StepResult]:
        time.sleep(STEP_S)
        return super().step(slots)


def make_runner(config: EngineConfig) -> SineRunner:
    """Return a runner with as many slots as the settings say, after `LOAD_S` of the environment."""
    time.sleep(float(os.environ.get("LOAD_S", "0")))
    return PacedSineRunner(config.pool_size or 4)


if __name__ == "__main__":
    supervisor.supervise = partial(
        supervisor.supervise, runner_factory="support.sine_server:make_runner"
    )
    sys.exit(cli.main(["serve", *sys.argv[1:]]))
