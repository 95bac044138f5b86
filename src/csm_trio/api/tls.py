"""TLS of the server: the certificate and its key, read from files that may change.

The files are read and checked in one place; what was checked is what every process uses.
"""

import logging
import os
import ssl
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from csm_trio.config import ServerConfig
from csm_trio.errors import StartupError
from csm_trio.named_files import read_file

logger = logging.getLogger(__name__)

_MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its chain, and its private key, as the bytes of PEM files."""

    chain: bytes = field(repr=False)
    key: bytes = field(repr=False)


class _Encrypted(Exception):
    """A private key needs a password."""


def server_context(certificate: Certificate) -> ssl.SSLContext:
    """Return the context of new connections: TLS 1.2 or newer, HTTP/1.1 alone.

    Raises SSLError for what OpenSSL cannot use.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A client could have the server compute one handshake after another.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    with _as_file(certificate.chain) as chain, _as_file(certificate.key) as key:
        # Without a function OpenSSL would ask the terminal.
        context.load_cert_chain(chain, key, _refuse_password)
    return context


class ServerTls:
    """The context of one process that serves clients; None where it serves without TLS."""

    def __init__(self, certificate: Certificate | None = None) -> None:
        self.context: ssl.SSLContext | None = None
        if certificate is not None:
            self.use(certificate)

    def use(self, certificate: Certificate) -> None:
        """Use a certificate for new connections; open ones go on with theirs."""
        self.context = server_context(certificate)

    async def replace(self, certificate: Certificate) -> None:
        """Use a certificate that has replaced another, where this process has descriptors left."""
        await trio.lowlevel.checkpoint()
        try:
            self.use(certificate)
        except OSError as error:
            logger.error("this process keeps its certificate: %s", error)


class CertificateStore:
    """The certificate of a server as it is now; None where it serves without TLS."""

    def __init__(self, config: ServerConfig) -> None:
        """Read the files; raises StartupError as `load_certificate`."""
        self._config = config
        self.certificate = load_certificate(config)

    def paths(self) -> Iterable[Path]:
        """Return the files by whose change the certificate has changed."""
        return [path for path in (self._config.tls_cert, self._config.tls_key) if path is not None]

    async def read_again(self, on_change: Callable[[Certificate], Awaitable[None]]) -> None:
        """Read the files again; keep the certificate where they are wrong, else call `on_change`.

        While one file is replaced before the other, they do not fit: the next look comes soon.
        """
        try:
            certificate = await trio.to_thread.run_sync(load_certificate, self._config)
        except StartupError as error:
            logger.error("the certificate stays as it is: %s", error)
            return
        if certificate is None or certificate == self.certificate:
            return
        self.certificate = certificate
        logger.info("new connections get the certificate of %s", self._config.tls_cert)
        await on_change(certificate)


def load_certificate(config: ServerConfig) -> Certificate | None:
    """Return the certificate that the settings name, checked; None where they name none; blocks.

    Raises StartupError for files that cannot be read or used, or do not fit.
    """
    if config.tls_cert is None or config.tls_key is None:
        return None
    shown, key_shown = f"The certificate file {config.tls_cert}", f"The key file {config.tls_key}"
    chain = read_file(config.tls_cert, max_bytes=_MAX_FILE_BYTES, name=shown)
    key = read_file(config.tls_key, max_bytes=_MAX_FILE_BYTES, name=key_shown)
    if b"-----BEGIN CERTIFICATE-----" not in chain:
        raise StartupError(f"{shown} holds no certificate in PEM.")
    if b"PRIVATE KEY-----" not in key:
        raise StartupError(f"{key_shown} holds no private key in PEM.")
    certificate = Certificate(chain, key)
    try:
        server_context(certificate)
    except _Encrypted:
        raise StartupError(f"{key_shown} is encrypted: decrypt it, and protect the file.") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise StartupError(
                f"{key_shown} is not the key of the certificate in {config.tls_cert}."
            ) from None
        reason = (error.reason or "PEM_LIB").lower().replace("_", " ")
        raise StartupError(
            f"{shown} with the key in {config.tls_key} cannot be used: {reason}."
        ) from None
    except OSError as error:
        # No descriptor is left, which clients can cause: it must not end the server.
        raise StartupError(f"{shown} cannot be loaded: {error.strerror}.") from None
    return certificate


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """Yield the path of a file with these bytes: OpenSSL reads no others. In memory on Linux."""
    if hasattr(os, "memfd_create"):
        with open(os.memfd_create("csm-trio-tls"), "wb", buffering=0) as file:
            file.write(data)
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.NamedTemporaryFile() as temporary:
            temporary.write(data)
            temporary.flush()
            yield temporary.name


def _refuse_password() -> str:
    raise _Encrypted
