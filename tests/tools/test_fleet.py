"""Three servers behind HAProxy, in full by the marker of the soak."""

import os
import shutil
import subprocess
import sys

import pytest


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
def test_a_fleet_behind_haproxy() -> None:
    # A process of its own: calls that are cancelled leave sockets to the garbage collector.
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tools.fleet"]
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
