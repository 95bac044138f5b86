"""How far something long has come, said now and then to whoever waits for the start.

In: counts of what is done. Out: log lines, a few seconds apart. It must not know what is done.
"""

import logging
import time

_EVERY_S = 2.0


class Progress:
    """Logs `what`, how many `units` of the `total` are done, and the seconds since it began."""

    def __init__(self, logger: logging.Logger, what: str, total: int, units: str) -> None:
        self._logger, self._what, self._total, self._units = logger, what, total, units
        self._started_s = self._said_s = time.perf_counter()

    def note(self, done: int) -> None:
        """Say how far it is, unless that was said a moment ago; what is quick stays silent."""
        now_s = time.perf_counter()
        if now_s - self._said_s < _EVERY_S:
            return
        self._said_s = now_s
        elapsed_s = now_s - self._started_s
        self._logger.info(
            "%s: %d of %d %s, %.0f s", self._what, done, self._total, self._units, elapsed_s
        )
