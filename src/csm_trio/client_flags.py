"""The flags and exit codes that clients share: server URL, voice and API key.

Knows no socket and no command.
"""

import argparse
import signal
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

DEFAULT_URL = "ws://127.0.0.1:8080"
DEFAULT_VOICE = "default"

EXIT_FAILED = 1
EXIT_INTERRUPTED = 128 + signal.SIGINT

_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
_PATH_CHARS = "/%:@!$&()*+,;=~"


def add_server_flags(add: Callable[..., Any], environ: Mapping[str, str]) -> None:
    """Add `--url`, `--voice` and `--api-key` by `add`, an `add_argument` of argparse.

    `CSM_API_KEY` of `environ` is the key's default.
    """
    add(
        "--url",
        type=base_url,
        default=DEFAULT_URL,
        help=f"server, ws:, wss:, http: or https: (unit: URL; default: {DEFAULT_URL})",
    )
    add_voice_flag(add)
    add_key_flag(add, environ)


def add_voice_flag(add: Callable[..., Any]) -> None:
    """Add `--voice`."""
    add(
        "--voice",
        default=DEFAULT_VOICE,
        metavar="ID",
        help=f"voice (unit: voice id; default: {DEFAULT_VOICE})",
    )


def add_key_flag(add: Callable[..., Any], environ: Mapping[str, str]) -> None:
    """Add `--api-key`; `CSM_API_KEY` of `environ` is its default."""
    add(
        "--api-key",
        type=header_value,
        default=environ.get("CSM_API_KEY") or None,
        metavar="KEY",
        help="API key sent to the server (unit: text; default: $CSM_API_KEY, else none)",
    )


def header_value(text: str) -> str:
    """Return `text` if it can be a header's value; raises `ArgumentTypeError` if not."""
    if not text or not all("!" <= char <= "~" for char in text):
        raise argparse.ArgumentTypeError("a key is printable ASCII without spaces")
    return text


def base_url(text: str) -> str:
    """Return the server's address with a WebSocket scheme and without a slash at its end.

    The path is kept, percent-encoded; an internationalized host is IDNA-encoded (RFC 3490).
    Raises `ArgumentTypeError` for anything that is not such an address.
    """
    try:
        parts = urlsplit(text)
        host, port = (parts.hostname or "").encode("idna").decode("ascii"), parts.port
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no URL: {error}") from None
    scheme = _SCHEMES.get(parts.scheme)
    excess = parts.username is not None or parts.query or parts.fragment or " " in parts.netloc
    if scheme is None or not host or port == 0 or excess:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not of the form ws://HOST[:PORT][/PATH], or wss:, http:, https:"
        )
    netloc = parts.netloc
    if not netloc.isascii():
        netloc = host if port is None else f"{host}:{port}"
    return f"{scheme}://{netloc}{quote(parts.path.rstrip('/'), safe=_PATH_CHARS)}"
