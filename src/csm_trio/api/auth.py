"""Authentication: API keys, bearer tokens, and single-use tokens of sockets.

Tokens are for browsers, which must not hold the key. Knows nothing of the server behind the key.
"""

import hmac
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import trio
from werkzeug.datastructures import Headers

from csm_trio.errors import TooManyRequests, Unauthorized
from csm_trio.protocol.fields import bearer_token

TOKEN_LIFE_S = 900.0
"""Lifetime of a single-use token: the vendor's 15 minutes (docs of `/v1/single-use-token`)."""

MAX_TOKENS = 10_000

MAX_UNAUTHENTICATED = 32
"""Sockets of one address that may be open at once without a valid key."""

AUTHENTICATION_TIMEOUT_S = 5.0
"""Seconds that a socket without a key in its upgrade has to send one in a message."""

KEYLESS_PATHS = frozenset({"/v1/audio/models", "/v1/audio/voices"})
"""Lists that are readable without a key: Open WebUI sends none, though it has one."""


class SingleUseTokens:
    """Tokens issued and not yet redeemed; above `MAX_TOKENS` the oldest are evicted."""

    def __init__(self) -> None:
        self._ends_s: dict[str, float] = {}

    def issue(self) -> str:
        """Return a new token."""
        now_s = trio.current_time()
        while self._ends_s:
            oldest, ends_s = next(iter(self._ends_s.items()))
            if ends_s > now_s and len(self._ends_s) < MAX_TOKENS:
                break
            del self._ends_s[oldest]
        token = f"sutkn_{secrets.token_urlsafe(32)}"
        self._ends_s[token] = now_s + TOKEN_LIFE_S
        return token

    def redeem(self, token: str) -> bool:
        """Return whether a token is valid, and invalidate it."""
        return self._ends_s.pop(token, 0.0) > trio.current_time()


class UnauthenticatedSockets:
    """Sockets that have not shown a valid key, counted by the client's address."""

    def __init__(self, per_address: int = MAX_UNAUTHENTICATED) -> None:
        self._per_address = per_address
        self._open = Counter[str]()

    def enter(self, address: str) -> AbstractContextManager[None]:
        """Return what counts one socket in while entered; raise TooManyRequests at the limit."""
        if self._open[address] >= self._per_address:
            raise TooManyRequests
        return self._counted(address)

    @contextmanager
    def _counted(self, address: str) -> Iterator[None]:
        self._open[address] += 1
        try:
            yield
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]


def check_key(key: str, api_key: str | None) -> bool:
    """Return whether `key` is the server's; every key is, where the server has none."""
    if api_key is None:
        return True
    return hmac.compare_digest(key.encode(), api_key.encode())


def check_request(
    method: str, path: str, headers: Headers, query: Mapping[str, str], *, api_key: str | None
) -> None:
    """Raise `Unauthorized` for an HTTP request that needs the key and does not present it."""
    if api_key is None or not _needs_key(method, path):
        return
    key = presented_key(headers, query)
    if key is None or not check_key(key, api_key):
        raise Unauthorized


CheckKey = Callable[[str], Awaitable[bool]]
"""Returns whether a key or token is valid; a single-use token is then used."""


@dataclass(frozen=True, slots=True)
class SocketAuthentication:
    """What an upgrade request shows: a valid key, a wrong one, or none yet.

    `check_message` is what the key of a later message must pass; None where none is expected.
    """

    accepted: bool = False
    check_message: CheckKey | None = None


async def check_socket(
    headers: Headers,
    query: Mapping[str, str],
    *,
    api_key: str | None,
    redeem_token: CheckKey,
) -> SocketAuthentication:
    """Check the key or single-use token of a socket's upgrade request; a token is then used."""
    key, token = presented_key(headers, query), query.get("single_use_token")
    if api_key is None or (key is not None and check_key(key, api_key)):
        return SocketAuthentication(accepted=True)
    if key is None and token is None:

        async def check_message(shown: str) -> bool:
            return check_key(shown, api_key) or await redeem_token(shown)

        return SocketAuthentication(check_message=check_message)
    redeemed = [await redeem_token(shown) for shown in (token, key) if shown is not None]
    return SocketAuthentication(accepted=any(redeemed))


def presented_key(headers: Headers, query: Mapping[str, str]) -> str | None:
    """Return the key in a request: header `xi-api-key`, a bearer token, or the query."""
    return (
        headers.get("xi-api-key")
        or bearer_token(headers.get("authorization"))
        or query.get("xi-api-key")
        or query.get("xi_api_key")
        or bearer_token(query.get("authorization"))
    )


def _needs_key(method: str, path: str) -> bool:
    # Browsers send a preflight OPTIONS without the key.
    return path.startswith(("/v1/", "/v2/")) and path not in KEYLESS_PATHS and method != "OPTIONS"
