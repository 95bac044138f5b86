"""TLS: what its clients get, what ends other clients' connections, and a certificate's change."""

import base64
import errno
import logging
import os
import shutil
import signal
import ssl
import subprocess
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import httpx
import pytest
import trio
import trustme
from elevenlabs import VoiceSettings
from elevenlabs.client import ElevenLabs
from trio_websocket import wrap_client_stream

from csm_trio.api.connection_limits import REQUEST_EVENTS, ConnectionLimits
from csm_trio.api.tls import CertificateStore, ServerTls
from csm_trio.config import Config, ServerConfig
from csm_trio.errors import StartupError
from support.client_calls import GUARD_S, HI, KEY, SPEECH, receive_all, send, until
from support.fakes import SineRunner, StepGate
from support.serving import TEST_SERVER, Server, http_post, serving
from tools.hang_ups import HANG_UPS

QUICK = ConnectionLimits(close_timeout_s=0.05)
RESET = (trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


@dataclass(frozen=True, slots=True)
class Issued:
    """An authority, and the server's files with a certificate of it."""

    authority: trustme.CA
    folder: Path

    @classmethod
    def into(cls, folder: Path) -> "Issued":
        issued = cls(trustme.CA(), folder)
        issued.renew()
        issued.authority.cert_pem.write_to_path(str(issued.authority_file))
        return issued

    @property
    def authority_file(self) -> Path:
        return self.folder / "authority.pem"

    @property
    def cert(self) -> Path:
        return self.folder / "cert.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    @property
    def config(self) -> ServerConfig:
        return replace(TEST_SERVER, tls_cert=self.cert, tls_key=self.key)

    def renew(self, common_name: str = "first") -> None:
        leaf = self.authority.issue_cert("localhost", "127.0.0.1", common_name=common_name)
        self.cert.write_bytes(b"".join(one.bytes() for one in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(str(self.key))

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority_file))


@pytest.fixture
def issued(tmp_path: Path) -> Issued:
    return Issued.into(tmp_path)


@asynccontextmanager
async def secured(
    config: ServerConfig,
    runner: SineRunner | None = None,
    limits: ConnectionLimits | None = None,
) -> AsyncIterator[Server]:
    with trio.fail_after(GUARD_S):
        made = runner or SineRunner()
        async with serving(lambda: made, Config(server=config), limits=limits) as server:
            yield server


async def connect(server: Server, context: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
    tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
    stream = trio.SSLStream(tcp, context, server_hostname="localhost")
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError:
        await tcp.aclose()
        raise
    return stream


def common_name(stream: trio.SSLStream[trio.SocketStream]) -> str:
    subject = dict(pair for part in stream.getpeercert()["subject"] for pair in part)
    return str(subject["commonName"])


@pytest.mark.usefixtures("each_topology")
async def test_requests_and_sockets_are_served_over_tls(issued: Issued) -> None:
    url = "localhost"
    async with secured(issued.config) as server:
        async with httpx.AsyncClient(verify=issued.trust(), trust_env=False) as client:
            answer = await client.post(f"https://{url}:{server.port}{SPEECH}/stream", json=HI)
            assert (answer.status_code, len(answer.content) > 1000) == (200, True)
            # A second request on the same connection.
            page = await client.get(f"https://{url}:{server.port}/")
            assert page.status_code == 200
        stream = await connect(server, issued.trust())
        async with stream, trio.open_nursery() as nursery:
            path = f"{SPEECH}/stream-input"
            ws = await wrap_client_stream(nursery, stream, url, path)
            await send(ws, HI, {"text": ""})
            received, code = await receive_all(ws)
        assert (received[-1]["isFinal"], code) == (True, 1000)
        await until(lambda: server.metric("csm_connections") == 0)


@pytest.mark.usefixtures("each_topology")
@pytest.mark.filterwarnings("ignore:ConnectionClosed.code:DeprecationWarning")
async def test_the_vendors_client_synthesizes_in_real_time(
    issued: Issued, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(issued.authority_file))
    async with secured(replace(issued.config, api_key=KEY)) as server:

        def convert() -> bytes:
            client = ElevenLabs(api_key=KEY, base_url=f"https://localhost:{server.port}")
            return b"".join(
                client.text_to_speech.convert_realtime(
                    "default",
                    text=iter(["Hello there. "]),
                    model_id="eleven_flash_v2_5",
                    output_format="pcm_16000",
                    voice_settings=VoiceSettings(stability=0.5),
                )
            )

        assert len(await trio.to_thread.run_sync(convert)) > 1000


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\nhost: test\r\n\r\n", b"\x16\x03\x01" + bytes(200), bytes(40_000)],
    ids=["plain HTTP", "no hello", "zeros"],
)
async def test_what_is_no_tls_ends_its_own_connection_quietly(
    issued: Issued, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with secured(issued.config) as server:
        other = await connect(server, issued.trust())
        async with other:
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                await stream.send_all(data)
                with suppress(trio.BrokenResourceError):
                    while await stream.receive_some():
                        pass
            await until(lambda: server.metric("csm_refusals_total", reason="TlsFailed") == 1)
            await until(lambda: server.metric("csm_connections") == 1)
            await other.send_all(b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n")
            assert (await other.receive_some()).startswith(b"HTTP/1.1 200 ")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_probe_that_sends_nothing_is_no_failure(issued: Issued) -> None:
    async with secured(issued.config) as server:
        for data in (b"", b"\x16\x03\x01\x00\xa5\x01"):
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                await stream.send_all(data)
                await until(lambda: server.metric("csm_connections") == 1)
            await until(lambda: server.metric("csm_connections") == 0)
        assert server.metric("csm_refusals_total", reason="TlsFailed") == 0


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x00\xa5\x01"])
async def test_a_slow_handshake_ends(issued: Issued, sent: bytes) -> None:
    limits = ConnectionLimits(head_timeout_s=0.05, close_timeout_s=0.05)
    async with secured(issued.config, limits=limits) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(sent)
            assert await stream.receive_some() == b""
        await until(lambda: server.metric("csm_connections") == 0)


async def test_old_tls_is_refused(issued: Issued) -> None:
    context = issued.trust()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    async with secured(issued.config) as server:
        with pytest.raises(trio.BrokenResourceError):
            await connect(server, context)
        await until(lambda: server.metric("csm_refusals_total", reason="TlsFailed") == 1)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_http_1_1_is_what_is_agreed_on(issued: Issued, version: ssl.TLSVersion) -> None:
    context = issued.trust()
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with secured(issued.config) as server, await connect(server, context) as stream:
        assert stream.selected_alpn_protocol() == "http/1.1"
        await stream.send_all(b"GET /readyz HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
        answer = b"".join([chunk async for chunk in stream])  # to its close_notify
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.usefixtures("each_topology")
@pytest.mark.parametrize("reset", [False, True])
async def test_a_hang_up_frees_the_slot(issued: Issued, reset: bool) -> None:
    gate = StepGate()
    async with secured(issued.config, SineRunner(step_gate=gate)) as server:
        stream = await connect(server, issued.trust())
        await http_post(stream, f"{SPEECH}/stream", {"text": "FRAMES=500 words."})
        await gate.held()
        if reset:
            stream.transport_stream.setsockopt(*RESET)
        await trio.aclose_forcefully(stream)
        gate.open()
        await until(lambda: server.metric("csm_connections") == 0)
        await until(lambda: server.state.engine.borrowed_slots == 0)
        assert server.metric("csm_cancels_total", reason="hang_up") == 1
        assert server.metric("csm_frames_total") < 500


class OverTls:
    """A client's connection as `HANG_UPS` use it; it ends without close_notify."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self.send_all = stream.send_all
        self.receive_some = stream.receive_some
        self.setsockopt = stream.transport_stream.setsockopt
        self.aclose = stream.transport_stream.aclose


@pytest.mark.parametrize("kind", HANG_UPS)
async def test_a_hang_up_leaves_nothing(
    kind: str, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    async with secured(issued.config) as server:
        idle = server.tasks()

        async def hang_up() -> None:
            stream = await connect(server, issued.trust())
            with suppress(trio.BrokenResourceError):  # the server may end it first
                await HANG_UPS[kind](cast(trio.SocketStream, OverTls(stream)))
            await stream.transport_stream.aclose()

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(hang_up)
        await until(lambda: server.tasks() == idle)
        assert server.metric("csm_connections") == 0
        assert server.metric("csm_sessions") == 0
        assert server.state.engine.borrowed_slots == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_reset_of_a_connection_that_ends_is_quiet(
    issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    async with secured(issued.config) as server:
        for head in ("GET /readyz", "GET /none", "BAD"):
            stream = await connect(server, issued.trust())
            fields = "host: test\r\nconnection: close\r\n\r\n"
            await stream.send_all(f"{head} HTTP/1.1\r\n{fields}".encode())
            assert await stream.receive_some()
            stream.transport_stream.setsockopt(*RESET)
            await trio.aclose_forcefully(stream)
            await until(lambda: server.metric("csm_connections") == 0)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_every_record_is_an_event(issued: Issued) -> None:
    """A record of one byte costs the server as much as one of 16 KiB."""
    request = b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n"
    limits = ConnectionLimits(events_per_s=1e-9, burst_events=REQUEST_EVENTS + 10)
    async with (
        secured(issued.config, limits=limits) as server,
        await connect(server, issued.trust()) as many,
        await connect(server, issued.trust()) as one,
    ):
        for byte in request:
            await many.send_all(bytes([byte]))
        await one.send_all(request)
        assert (await one.receive_some()).startswith(b"HTTP/1.1 200 ")
        with trio.move_on_after(0.05) as waited:
            await many.receive_some()
        assert waited.cancelled_caught  # it waits for its budget
        await trio.aclose_forcefully(many)
        await until(lambda: server.metric("csm_connections") == 1)


async def test_an_early_answer_arrives_whole(issued: Issued) -> None:
    config = replace(issued.config, max_body_bytes=1000)
    async with (
        secured(config, limits=QUICK) as server,
        await connect(server, issued.trust()) as stream,
    ):
        await http_post(stream, SPEECH, {"text": "a" * 5_000})
        answer = b""
        while b"\r\n\r\n{" not in answer:
            answer += await stream.receive_some()
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_an_idle_connection_is_ended_by_close_notify(issued: Issued) -> None:
    limits = ConnectionLimits(keep_alive_s=0.05)
    async with (
        secured(issued.config, limits=limits) as server,
        await connect(server, issued.trust()) as client,
    ):
        await client.send_all(b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n")
        # Without close_notify, the end is a BrokenResourceError.
        assert b"".join([data async for data in client]).startswith(b"HTTP/1.1 200 ")


async def test_a_reload_without_a_descriptor_left_keeps_the_certificate(
    issued: Issued, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    certificates = CertificateStore(issued.config)
    before = certificates.certificate
    assert before is not None
    tls = ServerTls(before)
    context = tls.context

    def fail(name: str) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "memfd_create", fail, raising=False)
    issued.renew("second")
    await certificates.read_again(tls.replace)
    assert certificates.certificate is before
    assert "cannot be loaded: Too many open files" in caplog.text
    await tls.replace(before)
    assert tls.context is context
    assert "keeps its certificate" in caplog.text
    monkeypatch.undo()
    await certificates.read_again(tls.replace)
    assert tls.context is not context


def reload() -> None:
    os.kill(os.getpid(), signal.SIGHUP)


@pytest.mark.usefixtures("each_topology")
async def test_a_new_certificate_is_for_new_connections(
    issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    async with secured(issued.config) as server, await connect(server, issued.trust()) as old:
        cert = issued.cert.read_bytes()
        issued.renew("second")
        key = issued.key.read_bytes()
        issued.cert.write_bytes(cert)  # only one of the files is new
        reload()
        await until(lambda: "the certificate stays as it is" in caplog.text)
        async with await connect(server, issued.trust()) as between:
            assert common_name(between) == "first"
        issued.renew("third")
        reload()

        async def name_now() -> str:
            async with await connect(server, issued.trust()) as stream:
                return common_name(stream)

        while await name_now() != "third":
            pass
        assert common_name(old) == "first"
        await old.send_all(b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n")
        assert (await old.receive_some()).startswith(b"HTTP/1.1 200 ")
    assert base64.b64encode(key).decode()[:40] not in caplog.text


def encrypt(file: Path) -> None:
    """Encrypt a private key in PEM, as `openssl` does."""
    command = ["openssl", "pkey", "-in", str(file), "-aes256", "-passout", "pass:x"]
    file.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)


def test_files_that_cannot_be_used_prevent_the_start(issued: Issued) -> None:
    def reason() -> str:
        with pytest.raises(StartupError) as caught:
            CertificateStore(issued.config)
        return str(caught.value)

    cert, key = issued.cert.read_bytes(), issued.key.read_bytes()
    issued.renew()
    issued.cert.write_bytes(cert)
    assert reason().endswith(f"key.pem is not the key of the certificate in {issued.cert}.")
    issued.cert.write_bytes(b"-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n")
    assert "cert.pem with the key in" in reason()
    issued.cert.write_bytes(key)
    assert reason().endswith("cert.pem holds no certificate in PEM.")
    issued.cert.write_bytes(cert)
    issued.key.write_bytes(cert)
    assert reason().endswith("key.pem holds no private key in PEM.")
    issued.key.unlink()
    assert "key.pem cannot be read: No such file" in reason()
    if shutil.which("openssl"):
        issued.key.write_bytes(key)
        encrypt(issued.key)
        assert "key.pem is encrypted" in reason()


async def test_one_file_may_hold_both(issued: Issued) -> None:
    issued.cert.write_bytes(issued.key.read_bytes() + issued.cert.read_bytes())
    async with (
        secured(replace(issued.config, tls_key=issued.cert)) as server,
        await connect(server, issued.trust()) as stream,
    ):
        assert common_name(stream) == "first"
