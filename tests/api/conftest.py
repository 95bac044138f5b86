"""Fixtures of the endpoints' tests."""

import pytest

from csm_trio.api.elevenlabs import websockets


@pytest.fixture
def short_error_to_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare every test the pause between an error message and its close."""
    monkeypatch.setattr(websockets, "ERROR_TO_CLOSE_S", 0.01)
