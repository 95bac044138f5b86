"""How all tests run: no verdict depends on how fast the machine is."""

import pytest
from hypothesis import HealthCheck, settings

from support.serving import Topology, topology

settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

_ASKED_FOR = {"soak": "takes minutes", "golden": "downloads and loads sesame/csm-1b"}


@pytest.fixture(params=["one process", "workers"])
def each_topology(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Topology:
    """Run a test with a server of one process, and with one that has a worker."""
    monkeypatch.setattr(topology, "workers", request.param == "workers")
    return topology


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what takes long, or a large download, unless it is asked for by its marker alone."""
    for marker, reason in _ASKED_FOR.items():
        if config.getoption("markexpr") == marker:
            continue
        for item in items:
            if item.get_closest_marker(marker) is not None:
                item.add_marker(pytest.mark.skip(reason=f"{reason}: pytest -m {marker}"))
