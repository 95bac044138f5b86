"""Lines of the log: one JSON object each, and no message of an exception that may quote a text."""

import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest

from csm_trio.cli import main
from csm_trio.log_format import JsonFormatter, LineFormatter, log_uncaught, traceback_text
from csm_trio.telemetry import QueuedHandler, configure_logging

KEYS = {"time", "level", "logger", "session", "message"}
SPOKEN = "the quick brown fox"


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Let a test configure the root logger and the hooks, and restore them."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    # Another test may have left it on: then Python's own hook, which pytest puts back, stays.
    logging.captureWarnings(False)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks


class Unprintable:
    def __str__(self) -> str:
        raise ValueError("no text")


def events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.usefixtures("own_logging")
def test_every_event_is_one_json_object_of_known_keys(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("debug", log_format="json")
    library = logging.getLogger("some.library")
    library.info("two\nlines\r\u2028and \x00 \ud800 \x1b[31m")
    library.info("%d apples", "no")
    library.info("%s", Unprintable())
    library.info("%(name)s", {"other": 1})
    library.info("100%", 1)
    library.info({"an": object()})
    library.info("extras", extra={"value": float("nan"), "thing": object(), "session_id": {1}})
    library.warning("with a stack", stack_info=True)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("deprecated\nthing", DeprecationWarning, stacklevel=1)
    try:
        raise KeyError("a\nb")
    except KeyError:
        library.exception("failed\nhere")
    found = events(capsys)
    assert len(found) == 10
    for event in found:
        assert event.keys() - {"exception", "stack"} == KEYS
        assert all(isinstance(value, str) for value in event.values())
    assert "stack" in found[7]
    assert found[8]["logger"] == "py.warnings"
    assert found[9]["exception"].endswith("\nKeyError")
    assert [found[index]["message"] for index in (1, 2)] == [
        "'%d apples' cannot be formatted (TypeError)",
        "'%s' cannot be formatted (ValueError)",
    ]


def test_a_secret_is_redacted_also_where_json_escapes_it_or_names_a_key() -> None:
    for secret in ('pa"ss\\word', "message", "{", "e"):
        record = logging.makeLogRecord({"msg": f"key {secret}!", "levelname": "INFO"})
        event = json.loads(JsonFormatter([secret]).format(record))
        assert event.keys() == KEYS
        assert secret not in event["message"].replace("[redacted]", "")


def test_the_time_is_iso_8601_with_its_zone() -> None:
    event = json.loads(JsonFormatter().format(logging.makeLogRecord({"created": 1.5})))
    assert event["time"] == "1970-01-01T00:00:01.500+00:00"


def test_a_name_of_the_process_is_a_key_where_there_are_several() -> None:
    record = logging.makeLogRecord({"msg": "hello"})
    assert json.loads(JsonFormatter(process="worker-1").format(record))["process"] == "worker-1"


def test_dropped_lines_are_noted_as_json_too() -> None:
    reader, writer = os.pipe()
    handler = QueuedHandler(writer)
    handler.setFormatter(JsonFormatter())
    for number in range(10_000):
        handler.emit(logging.makeLogRecord({"msg": f"line {number} {'.' * 100}"}))
    text = b""
    while b"were dropped here" not in text:
        text += os.read(reader, 1 << 16)
    os.close(reader)
    handler.close()
    os.close(writer)
    for line in text.splitlines()[:-1]:
        assert json.loads(line).keys() == KEYS


def read_number(text: str) -> None:
    try:
        int(text)
    except ValueError as cause:
        raise UnicodeEncodeError("ascii", text, 0, 1, text) from cause


def raise_after(error: BaseException) -> None:
    """Raise an exception with a cause, a context and notes that all quote a text."""
    error.add_note(SPOKEN)
    try:
        read_number(SPOKEN)
    except UnicodeEncodeError:
        raise error  # noqa: B904


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(SPOKEN),
        OSError(SPOKEN),
        OSError(2, SPOKEN, SPOKEN),
        json.JSONDecodeError(SPOKEN, SPOKEN, 0),
        ExceptionGroup(SPOKEN, [KeyError(SPOKEN), ExceptionGroup(SPOKEN, [TypeError(SPOKEN)])]),
        SyntaxError(SPOKEN, (SPOKEN, 1, 1, SPOKEN)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_traceback_holds_no_message_that_may_quote_a_text(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        raise_after(error)
    text = traceback_text(caught.value, messages=False)
    assert SPOKEN not in text
    assert text.count("Traceback (most recent call last):") >= 3
    assert "in read_number" in text
    assert type(error).__name__ in text
    assert SPOKEN in traceback_text(caught.value, messages=True)


def test_what_the_system_says_is_kept() -> None:
    assert traceback_text(OSError(28, "?"), messages=False).endswith(
        "OSError: No space left on device"
    )


def test_exceptions_without_end_have_a_traceback_with_an_end() -> None:
    deep: Exception = ValueError()
    for _ in range(2_000):
        deep = ExceptionGroup("", [deep])
    assert len(traceback_text(deep, messages=False).splitlines()) < 100
    one, other = ValueError(), ValueError()
    one.__context__, other.__context__ = other, one
    assert len(traceback_text(one, messages=False).splitlines()) < 100


def test_another_handlers_traceback_is_not_reused() -> None:
    record = logging.makeLogRecord({"msg": "failed", "exc_text": SPOKEN})
    assert SPOKEN not in LineFormatter().format(record)


@pytest.mark.usefixtures("own_logging")
def test_an_uncaught_exception_is_an_event_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", log_format="json")
    log_uncaught()

    def fail() -> None:
        raise RuntimeError(SPOKEN)

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    error = RuntimeError(SPOKEN)
    sys.excepthook(RuntimeError, error, None)
    found = events(capsys)
    assert [event["level"] for event in found] == ["critical"] * 2
    assert all(event["exception"].endswith("RuntimeError") for event in found)


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_what_prevents_the_start_is_said_in_the_form_of_the_log(
    log_format: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "csm_trio.tracing.spans", None)
    flags = ["--otlp-endpoint", "http://127.0.0.1:4318", "--log-format", log_format]
    assert main(["serve", *flags]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    sentence = (
        "Traces are asked for, but OpenTelemetry is not installed: pip install 'csm-trio[otel]'."
    )
    if log_format == "text":
        assert line == f"csm-trio: {sentence}"
    else:
        event = json.loads(line)
        assert (event["level"], event["message"]) == ("critical", sentence)
