"""What each answer of a server means for an item: again, later, elsewhere, or never."""

import json
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

from csm_trio.audio.wav import wav_header
from csm_trio.batch import run
from csm_trio.batch.http_exchange import AnswerLost, ServerUnreachable, exchange
from csm_trio.batch.speech_exchange import request_sessions
from support.batch_runs import audio_files, run_batch_here

AUDIO = wav_header(24_000, data_bytes=4_800) + bytes(4_800)
METRICS = b"csm_sessions_limit 4.0\ncsm_sessions 0.0\n"


def answer(status: int, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body) if length is None else length}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def refusal(status: int, message: str, *headers: str) -> bytes:
    return answer(status, json.dumps({"detail": {"message": message}}).encode(), *headers)


GOOD = answer(200, AUDIO)


class RawServer:
    """Answers requests for speech by a list of bytes, the last one for all that follow."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.metrics = answer(200, METRICS)
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer one request; the client goes where it likes."""
        with suppress(trio.BrokenResourceError):
            async with stream:
                await self.answer(stream)

    async def answer(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        request = await stream.receive_some()
        if request.startswith(b"GET"):
            await stream.send_all(self.metrics)
        elif request.startswith(b"POST"):
            head, _, body = bytes(request).partition(b"\r\n\r\n")
            while b"}" not in body:
                body += await stream.receive_some()
            self.requests.append(head + b"\r\n\r\n" + body)
            given = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            await stream.send_all(given)


@asynccontextmanager
async def raw_server(*answers: bytes) -> AsyncIterator[RawServer]:
    server = RawServer(*answers)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            serve = partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1")
            (listener,) = await nursery.start(serve)
            server.port = listener.socket.getsockname()[1]
            yield server
            nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_RETRY_S", 0.01)


def one_line(path: Path) -> tuple[Path, Path]:
    source = path / "in.txt"
    source.write_text("Hello.")
    return source, path / "out"


AGAIN = [
    refusal(500, "The speech engine failed."),
    refusal(502, "Bad gateway"),
    b"",
    b"HTTP/1.1 200",
    b"nonsense\r\n\r\n",
    answer(200, AUDIO[:1_000], length=len(AUDIO)),
    answer(200, b"this is no WAV file at all, but it is long enough to be one"),
]


@pytest.mark.parametrize("bad", AGAIN)
async def test_a_failure_of_the_server_is_tried_again(bad: bytes, tmp_path: Path) -> None:
    source, out = one_line(tmp_path)
    async with raw_server(bad, bad, GOOD) as server:
        result = await run_batch_here(source, out, "--url", server.url)
    assert result.status == 0, result.lines
    assert len(server.requests) == 3
    assert audio_files(out) == {"00001.wav": AUDIO}


async def test_an_item_that_fails_every_time_is_reported_with_its_reason(tmp_path: Path) -> None:
    source, out = one_line(tmp_path)
    async with raw_server(refusal(500, "The speech engine failed.")) as server:
        result = await run_batch_here(source, out, "--url", server.url, "--retries", "2")
    assert result.status == 2
    assert len(server.requests) == 3
    reason = "The speech engine failed. (HTTP status 500) (3 attempts)"
    assert result.lines[1] == f"failed: line 1 (00001.wav): {reason}"


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_server_is_no_failure_and_sets_the_time(status: int, tmp_path: Path) -> None:
    source, out = one_line(tmp_path)
    busy = refusal(status, "The server is at capacity.", "Retry-After: 1")
    async with raw_server(busy, GOOD) as server:
        begun_s = trio.current_time()
        result = await run_batch_here(source, out, "--url", server.url, "--retries", "0")
        assert trio.current_time() - begun_s >= 1
    assert result.status == 0
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [400, 403, 404, 413, 422])
async def test_a_refusal_of_the_item_is_final(status: int, tmp_path: Path) -> None:
    source, out = one_line(tmp_path)
    async with raw_server(refusal(status, "No\x1b[31m such.")) as server:
        result = await run_batch_here(source, out, "--url", server.url)
    assert result.status == 2
    assert len(server.requests) == 1
    assert result.lines[1].endswith(f": No [31m such. (HTTP status {status})")


async def test_the_request_is_of_batch_priority_and_not_logged(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out"
    row = {"text": "Hé.", "voice": "a/b", "seed": 3, "top_k": 5, "speed": 1.1, "format": "pcm_8000"}
    source.write_text(json.dumps(row))
    async with raw_server(answer(200, bytes(1_600))) as server:
        await run_batch_here(source, out, "--url", f"{server.url}/base", "--api-key", "k3y")
    head, _, body = server.requests[0].decode().partition("\r\n\r\n")
    target = "/base/v1/text-to-speech/a%2Fb?output_format=pcm_8000&enable_logging=false"
    assert head.startswith(f"POST {target} HTTP/1.1\r\n")
    assert "xi-api-key: k3y" in head
    assert json.loads(body) == {
        "text": "Hé.",
        "priority": "batch",
        "seed": 3,
        "top_k": 5,
        "voice_settings": {"speed": 1.1},
    }


async def test_a_server_without_metrics_is_used_one_by_one(tmp_path: Path) -> None:
    source, out = tmp_path / "in.txt", tmp_path / "out"
    source.write_text("One.\nTwo.\nThree.")
    async with raw_server(GOOD) as server:
        server.metrics = answer(404)
        result = await run_batch_here(source, out, "--url", server.url)
    assert result.status == 0
    assert len(server.requests) == 3


async def test_metrics_of_a_proxy_without_its_server_are_no_server() -> None:
    async with raw_server(GOOD) as server:
        for status in (502, 503, 504):
            server.metrics = answer(status)
            with pytest.raises(AnswerLost):
                await request_sessions(f"ws://127.0.0.1:{server.port}", None)
        server.metrics = answer(200, b"csm_sessions many\ncsm_sessions_limit 1e999\n")
        assert await request_sessions(f"ws://127.0.0.1:{server.port}", None) is None


async def test_an_answer_that_never_comes_is_lost() -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, silent, 0, host="127.0.0.1"))
        url = f"ws://127.0.0.1:{listener.socket.getsockname()[1]}"
        with pytest.raises(AnswerLost, match=r"no answer within 0\.05 seconds"):
            await exchange(url, "GET", "/", timeout_s=0.05)
        nursery.cancel_scope.cancel()


async def test_a_server_behind_tls_is_used_and_its_certificate_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server_side)
    raw, (source, out) = RawServer(GOOD), one_line(tmp_path)

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with suppress(trio.BrokenResourceError):
            async with stream:
                await raw.answer(stream)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(
                partial(trio.serve_ssl_over_tcp, serve, 0, server_side, host="127.0.0.1")
            )
            port = listener.transport_listener.socket.getsockname()[1]
            flags = ["--url", f"https://localhost:{port}", "--patience-s", "0.5"]
            refused = await run_batch_here(source, out, *flags)
            trusting = ssl.create_default_context()
            authority.configure_trust(trusting)
            monkeypatch.setattr(ssl, "create_default_context", lambda: trusting)
            done = await run_batch_here(source, out, *flags)
            nursery.cancel_scope.cancel()
    assert refused.status == 2
    assert "certificate verify failed" in refused.lines[1]
    assert done.status == 0
    assert audio_files(out) == {"00001.wav": AUDIO}


async def test_tls_with_a_server_that_has_none_is_unreachable() -> None:
    async with raw_server(GOOD) as server:
        with pytest.raises(ServerUnreachable):
            await exchange(f"wss://127.0.0.1:{server.port}", "GET", "/", timeout_s=5)


async def test_a_disk_that_takes_nothing_ends_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "in.txt", tmp_path / "out"
    source.write_text("One.\nTwo.\nThree.")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("csm_trio.batch.manifest.os.fsync", full)
    async with raw_server(GOOD) as server:
        result = await run_batch_here(source, out, "--url", server.url)
    assert result.status == 2
    assert re.fullmatch(
        r"csm-trio batch: Cannot write 0000\d\.wav: No space left on device\.", result.lines[-1]
    )
