"""What several tests of the doors ask for."""

import pytest

from csm_trio.api.elevenlabs import websockets


@pytest.fixture
def brief_goodbyes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare every test the pause between an error frame and its close."""
    monkeypatch.setattr(websockets, "GOODBYE_S", 0.01)
