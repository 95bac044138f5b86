"""Tokens that open one socket each, for browsers that must not hold the key."""

import secrets

import trio

TOKEN_LIFE_S = 900.0
"""The vendor's: 15 minutes (docs of `/v1/single-use-token`)."""

MAX_TOKENS = 10_000


class SingleUseTokens:
    """Tokens that were handed out and not yet shown; the oldest give way beyond the bound."""

    def __init__(self) -> None:
        self._ends_s: dict[str, float] = {}

    def issue(self) -> str:
        """Hand out a new token."""
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
        """Tell whether a token is good, which it is once."""
        return self._ends_s.pop(token, 0.0) > trio.current_time()
