"""The API keys of a server: one from the settings, more from a JSON file that may change.

Keys are found by their SHA-256 digest. How long a lookup takes depends on the digest alone, and
a client that can choose its bytes has the key: a comparison in constant time would protect no more.
"""

import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import trio

from csm_trio.config import ServerConfig
from csm_trio.errors import StartupError
from csm_trio.named_files import read_json
from csm_trio.telemetry import hide_secrets

logger = logging.getLogger(__name__)

SETTING_NAME = "default"
"""The name of the key of `--api-key`."""

MAX_KEYS = 1_000
"""Each is a metric of its own, and a text to hide in each line of the log."""

_MAX_FILE_BYTES = 4 << 20
_MAX_SESSIONS = 1_000_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_KEY = re.compile(r"[!-~]{1,512}")
_DIGEST = re.compile(r"[0-9A-Fa-f]{64}")
_MEMBERS = {"name", "key", "sha256", "max_sessions"}


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key: its name, its SHA-256 digest, and how many sessions it may have at once.

    `secret` is the key itself, for the log to hide; None where only the digest is known.
    """

    name: str
    digest: bytes = field(repr=False)
    max_sessions: int | None = None
    secret: str | None = field(default=None, repr=False, compare=False)

    @property
    def client(self) -> str:
        """Whose requests those of this key are."""
        return self.digest.hex()


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """The keys at one time; where `required` is false, no key is needed."""

    by_digest: Mapping[bytes, ApiKey] = field(default_factory=dict)
    required: bool = False

    @property
    def names(self) -> frozenset[str]:
        """The names of all keys."""
        return frozenset(key.name for key in self.by_digest.values())

    @property
    def secrets(self) -> tuple[str, ...]:
        """The keys themselves, as far as they are known."""
        return tuple(key.secret for key in self.by_digest.values() if key.secret is not None)

    def find(self, shown: str) -> ApiKey | None:
        """Return the key that a client shows; None where it is not one of these."""
        key = self.by_digest.get(digest_of(shown))
        if key is not None and key.secret is None:
            hide_secrets((shown,))
        return key


def digest_of(key: str) -> bytes:
    """Return the SHA-256 digest of a key."""
    # A JSON message may hold half a surrogate pair.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def load_keys(config: ServerConfig) -> ApiKeys:
    """Return the keys that the settings name; blocks.

    The file's entry of a key goes before `--api-key`. Raises StartupError for a file that cannot be
    read or is wrong; no message shows a key.
    """
    if config.api_keys_file is None and config.api_key is None:
        return ApiKeys()
    keys: dict[bytes, ApiKey] = {}
    if config.api_key is not None:
        digest = digest_of(config.api_key)
        keys[digest] = ApiKey(SETTING_NAME, digest, secret=config.api_key)
    if config.api_keys_file is not None:
        keys |= _read_file(config.api_keys_file)
    return ApiKeys(keys, required=True)


class KeyStore:
    """The keys of a server as they are now."""

    def __init__(self, config: ServerConfig) -> None:
        """Read the keys; raises StartupError as `load_keys`."""
        self._config = config
        self.keys = load_keys(config)
        hide_secrets(self.keys.secrets)

    def paths(self) -> Iterable[Path]:
        """Return the files by whose change the keys have changed."""
        return () if self._config.api_keys_file is None else (self._config.api_keys_file,)

    async def read_again(self, on_change: Callable[[], Awaitable[None]]) -> None:
        """Read the file again; keep the keys where it is wrong, else call `on_change`."""
        try:
            keys = await trio.to_thread.run_sync(load_keys, self._config)
        except StartupError as error:
            logger.error("the API keys stay as they are: %s", error)
            return
        if keys == self.keys:
            return
        hide_secrets(keys.secrets)
        self.keys = keys
        logger.info("%d API keys are valid now", len(keys.by_digest))
        await on_change()


def _read_file(path: Path) -> dict[bytes, ApiKey]:
    shown = f"The keys file {path}"
    entries = read_json(
        path, max_bytes=_MAX_FILE_BYTES, name=shown, read_object=_refuse_duplicate_members
    )
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise StartupError(f"{shown} must hold a JSON list of at most {MAX_KEYS:,} objects.")
    keys: dict[bytes, ApiKey] = {}
    names = {SETTING_NAME}
    for number, entry in enumerate(entries, 1):
        key = _read_entry(f"{shown}, entry {number}", entry)
        if key.name in names:
            reason = "is taken by --api-key" if key.name == SETTING_NAME else "occurs twice"
            raise StartupError(f"{shown}, entry {number}: the name {key.name!r} {reason}.")
        if key.digest in keys:
            raise StartupError(f"{shown}, entry {number}: its key occurs twice.")
        names.add(key.name)
        keys[key.digest] = key
    return keys


def _read_entry(shown: str, entry: object) -> ApiKey:
    if not isinstance(entry, dict) or not set(entry) <= _MEMBERS:
        raise StartupError(
            f"{shown} must be an object of name, key or sha256, and at will max_sessions."
        )
    name, max_sessions = entry.get("name"), entry.get("max_sessions")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise StartupError(
            f"{shown}: name must be 1 to 64 letters, digits, '.', '_', '@' or '-', and begin with "
            "a letter or digit."
        )
    if max_sessions is not None and not (
        type(max_sessions) is int and 1 <= max_sessions <= _MAX_SESSIONS
    ):
        raise StartupError(
            f"{shown}: max_sessions must be a whole number from 1 to {_MAX_SESSIONS:,}."
        )
    secret, digest = entry.get("key"), entry.get("sha256")
    if (secret is None) == (digest is None):
        raise StartupError(f"{shown} must have a key or its sha256, and not both.")
    if secret is None:
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise StartupError(f"{shown}: sha256 must be 64 hexadecimal digits.")
        return ApiKey(name, bytes.fromhex(digest), max_sessions)
    if not isinstance(secret, str) or not _KEY.fullmatch(secret):
        raise StartupError(
            f"{shown}: key must be 1 to 512 characters of printable ASCII without spaces."
        )
    return ApiKey(name, digest_of(secret), max_sessions, secret)


def _refuse_duplicate_members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member occurs twice in one object")
    return members
