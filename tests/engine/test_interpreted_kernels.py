"""Run `interpreted_kernels.py`: the fused step and the captured prefill without a GPU."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNEL_TESTS = Path(__file__).with_name("interpreted_kernels.py")


@pytest.mark.soak
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_the_kernels_compute_what_torch_computes() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-o", "faulthandler_timeout=900"]
    run = subprocess.run(
        [*command, str(KERNEL_TESTS)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=KERNEL_TESTS.parents[2],
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
