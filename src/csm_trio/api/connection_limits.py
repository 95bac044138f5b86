"""Limits and deadlines of one client's connection, and the budget that paces its input."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one connection may cost, and for how long it may wait.

    head_timeout_s: from the first byte of a request to the end of its head. keep_alive_s: between
    two requests. close_timeout_s: for the last bytes of a connection that ends. max_head_bytes:
    request line and headers. max_message_bytes: one WebSocket message. max_unread_bytes: bytes of
    later requests that are stored while one is served. events_per_s and bytes_per_s: sustained
    input after a burst of burst_events and burst_bytes; beyond it, reading pauses.
    """

    head_timeout_s: float = 10.0
    keep_alive_s: float = 75.0
    close_timeout_s: float = 1.0
    max_head_bytes: int = 16 << 10
    max_message_bytes: int = 1 << 18
    max_unread_bytes: int = 64 << 10
    events_per_s: float = 600.0
    burst_events: float = 600.0
    bytes_per_s: float = 1 << 20
    burst_bytes: float = 1.25 * 2**20


REQUEST_EVENTS = 40
"""Events that one HTTP request counts as: it costs the event loop about as much as so many socket
messages."""


@dataclass(slots=True)
class InputBudget:
    """A token bucket of events and bytes: what one connection may have parsed by now.

    An event is a request, a WebSocket frame or one read of the socket. The caller gives the time,
    in seconds of any monotonic clock.
    """

    limits: ConnectionLimits
    _events: float = field(init=False)
    _bytes: float = field(init=False)
    _at_s: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._events, self._bytes = self.limits.burst_events, self.limits.burst_bytes

    def charge(self, now_s: float, *, events: float = 0, n_bytes: int = 0) -> None:
        """Take events and bytes out of the bucket; it may become overdrawn."""
        limits, elapsed_s = self.limits, 0.0 if self._at_s is None else now_s - self._at_s
        self._at_s = now_s
        self._events = min(limits.burst_events, self._events + elapsed_s * limits.events_per_s)
        self._bytes = min(limits.burst_bytes, self._bytes + elapsed_s * limits.bytes_per_s)
        self._events -= events
        self._bytes -= n_bytes

    @property
    def wait_s(self) -> float:
        """Seconds from the last charge until the bucket is no longer overdrawn."""
        limits = self.limits
        return max(0.0, -self._events / limits.events_per_s, -self._bytes / limits.bytes_per_s)


_RECORD_BYTES = 96
"""What a TLS record has beside its content at most: header, IV, MAC and padding."""
_OPEN_RECORD_BYTES = 24 << 10
"""The handshake, and a record of which a part has been read."""
_EMPTY_RECORD_BYTES = 27
"""The shortest TLS record: a key update (RFC 8446, 4.6.3)."""


@dataclass(slots=True)
class EmptyRecords:
    """Records of TLS without content, as events: OpenSSL takes 16 to 30 us for a key update.

    They are known by their bytes alone: those read, less those of content.
    """

    _read_bytes: int = 0
    _content_bytes: int = 0
    _charged_bytes: int = 0

    def add_read(self, n_bytes: int) -> float:
        """Count bytes of the wire; return the events that those before them come to."""
        empty_bytes = self._read_bytes - self._content_bytes - _OPEN_RECORD_BYTES
        self._read_bytes += n_bytes
        new_bytes = max(0, empty_bytes - self._charged_bytes)
        self._charged_bytes += new_bytes
        return new_bytes / _EMPTY_RECORD_BYTES

    def add_content(self, n_bytes: int) -> None:
        """Count the content of one record."""
        self._content_bytes += n_bytes + _RECORD_BYTES
