"""Metrics, timelines, and log lines with the id of their session."""

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator

import pytest
import trio

from csm_trio import telemetry
from csm_trio.telemetry import (
    Metrics,
    QueuedHandler,
    Timeline,
    configure_logging,
    log_drops,
    session_id,
)
from support.client_calls import SPEECH, http_client, receive_all, send
from support.fakes import SineRunner
from support.serving import serving


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(telemetry, "time", self)

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Let a test configure the root logger, and restore it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def test_a_mark_is_the_first_time_of_an_event(clock: Clock) -> None:
    timeline = Timeline(received_s=clock.now_s)
    clock.now_s += 0.5
    assert timeline.mark("first_frame")
    clock.now_s += 0.25
    assert not timeline.mark("first_frame")
    assert timeline.mark("first_chunk")
    assert timeline.since("first_frame", "first_chunk") == 0.25
    assert str(timeline) == "first_frame=500ms first_chunk=750ms"


def test_the_time_between_marks_is_none_where_one_is_missing(clock: Clock) -> None:
    timeline = Timeline()
    timeline.mark("segmented")
    assert timeline.since("segmented", "first_chunk") is None
    assert timeline.since("first_chunk", "segmented") is None
    assert str(Timeline()) == ""


def test_a_lap_is_the_time_since_the_last_one(clock: Clock) -> None:
    timeline = Timeline()
    assert timeline.lap("chunk") is None
    for gap_s in (0.5, 0.125):
        clock.now_s += gap_s
        assert timeline.lap("other") in (None, gap_s)
        assert timeline.lap("chunk") == gap_s
    assert timeline.marks == {}


def test_two_timelines_share_no_state(clock: Clock) -> None:
    one, other = Timeline(), Timeline()
    one.mark("segmented")
    assert other.mark("segmented")
    assert one.lap("chunk") is None
    assert other.lap("chunk") is None


def test_two_servers_in_one_process_count_separately() -> None:
    one, other = Metrics(), Metrics()
    one.frames.inc(3)
    one.cancels.labels("hang_up").inc()
    assert one.registry is not other.registry
    assert b"csm_frames_total 3.0" in one.render()
    assert b"csm_frames_total 0.0" in other.render()
    assert b"hang_up" in one.render()
    assert b"hang_up" not in other.render()


def test_every_metric_name_has_the_prefix_and_its_unit() -> None:
    for metric in Metrics().registry.collect():
        assert metric.name.startswith("csm_")
        assert metric.documentation.endswith(".")
        if metric.type == "histogram" and "factor" not in metric.name:
            assert metric.name.endswith("_seconds")


def test_every_histogram_has_buckets_around_200_ms() -> None:
    """A frame lasts 80 ms and a good TTFA is 200 ms: there are buckets on both sides."""
    for metric in Metrics().registry.collect():
        if metric.type != "histogram":
            continue
        edges = [float(one.labels["le"]) for one in metric.samples if "le" in one.labels]
        assert edges == sorted(set(edges))
        assert sum(edge <= 0.2 for edge in edges) >= 3
        assert sum(edge > 0.2 for edge in edges) >= 3


@pytest.mark.usefixtures("own_logging")
def test_a_log_line_carries_the_id_of_its_session(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    token = session_id.set("c0ffee")
    logging.getLogger("csm_trio.test").info("hello")
    session_id.reset(token)
    logging.getLogger("csm_trio.test").info("nobody")
    logging.getLogger("csm_trio.test").debug("too quiet")
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\S+ \S+ INFO csm_trio\.test \[c0ffee\] hello", first)
    assert second.endswith("INFO csm_trio.test [-] nobody")


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_info_logs_of_libraries_are_suppressed(
    level: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(level)
    for name in ("httpx", "huggingface_hub", "urllib3.connectionpool"):
        logging.getLogger(name).info("chatter")
    logging.getLogger("csm_trio").error("matters")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("matters")


@pytest.mark.usefixtures("own_logging")
async def test_log_lines_of_a_session_carry_its_own_id(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with trio.fail_after(30):
        async with serving(SineRunner) as server, http_client(server) as client:
            configure_logging("info")
            ids = [
                (await client.post(SPEECH, json={"text": "Hi."})).headers["request-id"]
                for _ in range(2)
            ]
            async with server.dial() as ws:
                await send(ws, {"text": "Hi."}, {"text": ""})
                await receive_all(ws)
    done = [line for line in capsys.readouterr().err.splitlines() if "context done" in line]
    logged = [re.search(r"\[(\S+)\] context done", line) for line in done]
    found = [match[1] for match in logged if match]
    assert len(set(found)) == 3
    assert found[:2] == ids
    for line in done:
        assert re.search(r"voice=default .*audio=0\.\d\ds .*first_chunk=\d+ms", line)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that holds little, and is not read by itself."""
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def logger_to(handler: logging.Handler) -> logging.Logger:
    logger = logging.Logger("csm_trio.test")
    logger.addHandler(handler)
    return logger


def test_a_log_that_is_not_read_blocks_nothing_and_counts_what_it_drops(
    pipe: tuple[int, int],
) -> None:
    reader, writer = pipe
    before = log_drops.lines
    handler = QueuedHandler(writer)
    logger = logger_to(handler)
    for number in range(10_000):
        logger.info("line %d of a log that is not read %s", number, "." * 100)
    dropped = log_drops.lines - before
    assert 5_000 < dropped < 10_000
    assert Metrics().registry.get_sample_value("csm_log_lines_dropped") == log_drops.lines
    text = b""
    while b"lines of the log were dropped here" not in text:
        text += os.read(reader, 1 << 16)
    assert text.startswith(b"line 0 of a log")
    os.close(reader)
    handler.close()


def test_a_log_that_is_closed_blocks_nothing(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    handler = QueuedHandler(writer)
    logger_to(handler).info("hello")
    handler.close()


def test_what_is_queued_is_written_at_the_close(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    handler = QueuedHandler(writer)
    for number in range(100):
        logger_to(handler).info("%d", number)
    handler.close()
    assert os.read(reader, 1 << 16).split() == [b"%d" % number for number in range(100)]


def test_what_is_queued_is_written_nowhere_else_when_its_descriptor_is_closed(
    pipe: tuple[int, int],
) -> None:
    reader, writer = pipe
    handler = QueuedHandler(writer)
    for number in range(2_000):
        logger_to(handler).info("line %d of a log that is not read %s", number, "." * 100)
    other_reader, other_writer = os.pipe()
    os.dup2(other_writer, writer)  # closes it, and gives its number to another file
    os.close(reader)
    handler.close()
    os.write(other_writer, b"other")
    assert os.read(other_reader, 1 << 16) == b"other"
    for descriptor in (other_reader, other_writer):
        os.close(descriptor)


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_secret_never_appears(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("debug", log_format=log_format, secrets=["sk_hush"])
    logger = logging.getLogger("some.library")
    logger.debug("header %s: %r", "xi-api-key", b"sk_hush")
    try:
        raise ValueError("sk_hush is wrong")
    except ValueError:
        logger.exception("failed with sk_hush")
    logged = capsys.readouterr().err
    assert "hush" not in logged
    assert logged.count("[redacted]") >= 3


@pytest.mark.usefixtures("own_logging")
def test_json_logs_have_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", log_format="json")
    token = session_id.set("c0ffee")
    logging.getLogger("csm_trio.test").warning('two\nlines and "quotes"')
    session_id.reset(token)
    (line,) = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert event.pop("time")
    assert event == {
        "level": "warning",
        "logger": "csm_trio.test",
        "session": "c0ffee",
        "message": 'two\nlines and "quotes"',
    }
