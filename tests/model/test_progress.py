"""Progress of a long start: said now and then, and not at all of what is quick."""

import logging

import pytest

from csm_trio.model.progress import Progress

LOGGER = logging.getLogger("test_progress")


def test_progress_is_logged_at_intervals(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = iter([100.0, 100.5, 102.5, 103.0, 105.0])
    monkeypatch.setattr("csm_trio.model.progress.time.perf_counter", lambda: next(now_s))
    with caplog.at_level(logging.INFO, logger=LOGGER.name):
        loading = Progress(LOGGER, "loading it", 9, "tensors")
        for done in (1, 2, 3, 9):
            loading.note(done)
    assert caplog.messages == ["loading it: 2 of 9 tensors, 2 s", "loading it: 9 of 9 tensors, 5 s"]
