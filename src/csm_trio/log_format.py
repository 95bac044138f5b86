"""How an event of the log is written: a line of text, or one JSON object.

No exception's own message is written unless the texts of clients may be: a message can quote them.
"""

import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from types import TracebackType
from urllib.parse import quote

_MAX_PARTS = 16
"""Exceptions of a group, and of a chain of causes, that are written; more are left out."""

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

logger = logging.getLogger(__name__)


class LineFormatter(logging.Formatter):
    """One line of text an event; secrets never appear, whichever library logs them.

    `process` names the process where a server has several. With `texts`, exceptions are written
    with their messages.
    """

    def __init__(
        self, secrets: Iterable[str] = (), process: str = "", *, texts: bool = False
    ) -> None:
        source = f"{process} " if process else ""
        super().__init__(f"%(asctime)s %(levelname)s {source}%(name)s [%(caller)s] %(message)s")
        self._hidden: set[str] = set()
        self._secrets: tuple[str, ...] = ()
        self.hide(secrets)
        self._process = process
        self._texts = texts

    def hide(self, secrets: Iterable[str]) -> None:
        """Replace more secrets from now on, as they are and as in a URL."""
        both = {form for secret in secrets for form in (secret, quote(secret, safe=""))}
        if not both <= self._hidden:
            self._hidden |= both
            # The longest first: one may be a part of another.
            self._secrets = tuple(sorted(self._hidden, key=len, reverse=True))

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of an event; a traceback follows on lines of its own."""
        record.message = _message(record)
        record.caller = " ".join(filter(None, (_session(record), _key(record))))
        record.asctime = self.formatTime(record)
        parts = [self.formatMessage(record), *self._details(record).values()]
        return self._redacted("\n".join(parts))

    def formatException(self, ei: _ExcInfo) -> str:
        """Return a traceback."""
        return "" if ei[1] is None else traceback_text(ei[1], messages=self._texts)

    def _details(self, record: logging.LogRecord) -> dict[str, str]:
        """Return the traceback and the stack of an event, where it has them."""
        # Not `exc_text`: another handler's formatter may have kept its own traceback there.
        exception = self.formatException(record.exc_info) if record.exc_info else ""
        details = {"exception": exception, "stack": record.stack_info or ""}
        return {name: text for name, text in details.items() if text}

    def _redacted(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        return text


class JsonFormatter(LineFormatter):
    """One JSON object an event; every value is a string."""

    def format(self, record: logging.LogRecord) -> str:
        """Return an event as JSON, on one line."""
        values = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            **({"process": self._process} if self._process else {}),
            "session": _session(record),
            **({"key": key} if (key := _key(record)) else {}),
        }
        texts = {"message": _message(record), **self._details(record)}
        # Before JSON escapes them: an escaped secret would not be found.
        redacted = {name: self._redacted(text) for name, text in texts.items()}
        return json.dumps({**values, **redacted})


def traceback_text(error: BaseException, *, messages: bool) -> str:
    """Return the traceback of an exception, its causes and, for a group, its exceptions.

    Without `messages`, a message stays away unless it comes from the system or from torch.
    """
    return "\n".join(_traceback_lines(error, messages=messages, left=_MAX_PARTS))


def _traceback_lines(error: BaseException, *, messages: bool, left: int) -> Iterator[str]:
    before = error.__cause__
    if before is None and not error.__suppress_context__:
        before = error.__context__
    if before is not None and left:
        yield from _traceback_lines(before, messages=messages, left=left - 1)
        relation = "the cause of" if error.__cause__ is not None else "handled before"
        yield f"-- {relation}: --"
    yield "Traceback (most recent call last):"
    for entry in traceback.format_tb(error.__traceback__):
        yield entry.rstrip("\n")
    yield _type_name(error) + _shown_message(error, messages=messages)
    if isinstance(error, BaseExceptionGroup) and left:
        for part in error.exceptions[:_MAX_PARTS]:
            for line in _traceback_lines(part, messages=messages, left=left - 1):
                yield "  | " + line.replace("\n", "\n  | ")


def _type_name(error: BaseException) -> str:
    kind = type(error)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}"


def _shown_message(error: BaseException, *, messages: bool) -> str:
    if messages or type(error).__module__.partition(".")[0] == "torch":
        return f": {error}"
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return f": {os.strerror(error.errno)}"
    return ""


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    # What a library formats wrongly must not end the task that logs it.
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return f"{record.msg!r} cannot be formatted ({type(error).__name__})"


def _session(record: logging.LogRecord) -> str:
    return str(getattr(record, "session", "-"))


def _key(record: logging.LogRecord) -> str:
    """Return the name of the API key for which an event's task works."""
    return str(getattr(record, "key", ""))


def _utc(created_s: float) -> str:
    return datetime.fromtimestamp(created_s, UTC).isoformat(timespec="milliseconds")


def log_uncaught() -> None:
    """Write what ends the process or a thread to the log, in place of Python's own traceback."""

    def note(error: BaseException | None) -> None:
        logger.critical("uncaught exception", exc_info=error)

    def ends_process(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        note(error)

    sys.excepthook = ends_process
    threading.excepthook = lambda args: note(args.exc_value)
    sys.unraisablehook = lambda args: note(args.exc_value)
