"""Three servers behind HAProxy, in full by the marker of the soak."""

import shutil

import pytest

from tools import fleet


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
def test_a_fleet_behind_haproxy() -> None:
    assert fleet.main([]) == 0
