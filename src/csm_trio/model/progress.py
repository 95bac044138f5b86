"""Log the progress of a long operation every few seconds.

In: the number of units done. Out: log lines. It must not know the operation.
"""

import logging
import time

_INTERVAL_S = 2.0
"""Minimum number of seconds between two log lines, and before the first."""


class Progress:
    """Logs an operation (`what`), the `units` done of `total`, and the seconds since its start."""

    def __init__(self, logger: logging.Logger, what: str, total: int, units: str) -> None:
        self._logger, self._what, self._total, self._units = logger, what, total, units
        self._started_s = self._logged_s = time.perf_counter()

    def note(self, done: int) -> None:
        """Log that `done` units are done, at most once per interval."""
        now_s = time.perf_counter()
        if now_s - self._logged_s < _INTERVAL_S:
            return
        self._logged_s = now_s
        elapsed_s = now_s - self._started_s
        self._logger.info(
            "%s: %d of %d %s, %.0f s", self._what, done, self._total, self._units, elapsed_s
        )
