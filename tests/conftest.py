"""How all tests run: no verdict depends on how fast the machine is."""

import pytest
from hypothesis import HealthCheck, settings

from support.serving import Topology, topology

settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(params=["one process", "workers"])
def each_topology(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Topology:
    """Run a test with a server of one process, and with one that has a worker."""
    monkeypatch.setattr(topology, "workers", request.param == "workers")
    return topology


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what takes minutes unless it is asked for: `pytest -m soak`."""
    if config.getoption("markexpr") == "soak":
        return
    for item in items:
        if item.get_closest_marker("soak") is not None:
            item.add_marker(pytest.mark.skip(reason="takes minutes: pytest -m soak"))
