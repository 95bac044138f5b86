"""Authentication: API keys, bearer tokens, and single-use tokens of sockets.

Tokens are for browsers, which must not hold a key; each stands for the key that it was issued to.
Knows nothing of the server behind the keys.
"""

import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import trio
from werkzeug.datastructures import Headers

from csm_trio.api.api_keys import ApiKey, ApiKeys
from csm_trio.errors import TooManyRequests, Unauthorized
from csm_trio.protocol.fields import bearer_token
from csm_trio.telemetry import key_name

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
        self._issued: dict[str, tuple[float, bytes]] = {}

    def issue(self, key_digest: bytes) -> str:
        """Return a new token, which stands for the key with this digest."""
        now_s = trio.current_time()
        while self._issued:
            oldest, (ends_s, _) = next(iter(self._issued.items()))
            if ends_s > now_s and len(self._issued) < MAX_TOKENS:
                break
            del self._issued[oldest]
        token = f"sutkn_{secrets.token_urlsafe(32)}"
        self._issued[token] = now_s + TOKEN_LIFE_S, key_digest
        return token

    def redeem(self, token: str) -> bytes | None:
        """Return the digest of a token's key, and invalidate the token; None for no valid one."""
        ends_s, key_digest = self._issued.pop(token, (0.0, b""))
        return key_digest if ends_s > trio.current_time() else None


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


def check_request(
    method: str, path: str, headers: Headers, query: Mapping[str, str], *, keys: ApiKeys
) -> ApiKey | None:
    """Return the key of an HTTP request; None where it needs none.

    Raises `Unauthorized` for a request that needs a key and does not present one.
    """
    if not keys.required or not _needs_key(method, path):
        return None
    shown = presented_key(headers, query)
    key = None if shown is None else keys.find(shown)
    if key is None:
        raise Unauthorized
    return key


def note_key(key: ApiKey | None) -> None:
    """Have the log lines of this task name a key."""
    key_name.set("" if key is None else key.name)


CheckKey = Callable[[str], Awaitable[ApiKey | None]]
"""Returns the key that is shown, or for which a single-use token stands; the latter is then used.
None where it is not valid."""


@dataclass(frozen=True, slots=True)
class SocketAuthentication:
    """What an upgrade request shows: a valid key, a wrong one, or none yet.

    `key` is None where the server has none. `check_message` is what the key of a later
    message must pass; None where none is expected.
    """

    accepted: bool = False
    key: ApiKey | None = None
    check_message: CheckKey | None = None


async def check_socket(
    headers: Headers,
    query: Mapping[str, str],
    *,
    keys: Callable[[], ApiKeys],
    redeem_token: Callable[[str], Awaitable[bytes | None]],
) -> SocketAuthentication:
    """Check the key or single-use token of a socket's upgrade request; a token is then used.

    `keys` returns the keys as they are when it is called; `redeem_token` the digest of a token's
    key, or None.
    """
    if not keys().required:
        return SocketAuthentication(accepted=True)

    async def check(shown: str) -> ApiKey | None:
        key = keys().find(shown)
        if key is None and (digest := await redeem_token(shown)) is not None:
            # A token ends with its key.
            key = keys().by_digest.get(digest)
        return key

    shown, token = presented_key(headers, query), query.get("single_use_token")
    if shown is None and token is None:
        return SocketAuthentication(check_message=check)
    key = None
    for one in (shown, token):
        if key is None and one is not None:
            key = await check(one)
    return SocketAuthentication(accepted=key is not None, key=key)


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
