"""Run `interpreted_alignment.py`: the alignment head's kernel without a GPU."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNEL_TESTS = Path(__file__).with_name("interpreted_alignment.py")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_the_kernel_reads_the_token_that_torch_reads() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--noconftest", str(KERNEL_TESTS)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=KERNEL_TESTS.parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
