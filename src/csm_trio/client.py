"""Client of the `stream-input` endpoint: text deltas in, encoded audio and its timing out.

Uses only the public API: knows the protocol and the audio formats, neither the server's modules
nor the destination of the audio.
"""

import base64
import json
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode, urlsplit

import trio
from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    wrap_client_stream,
)

from csm_trio.audio.formats import AudioFormat
from csm_trio.client_flags import DEFAULT_URL, DEFAULT_VOICE
from csm_trio.errors import SpeechError
from csm_trio.protocol.elevenlabs.socket_query import (
    DEFAULT_SOCKET_FORMAT,
    MAX_INACTIVITY_TIMEOUT_S,
)
from csm_trio.protocol.fields import parse_object

DEFAULT_FORMAT = DEFAULT_SOCKET_FORMAT

_MAX_MESSAGE_BYTES = 16 << 20
_RECEIVE_BYTES = 64 << 10
_CONNECT_TIMEOUT_S = 10.0
_CLOSE_TIMEOUT_S = 2.0
_SILENCE_TIMEOUT_S = 60.0

_Wire = trio.SocketStream | trio.SSLStream[trio.SocketStream]
Deltas = AsyncGenerator[str, None]
OnAudio = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class SpeechTarget:
    """The server, voice and format of a call; `base_url` is a ws: or wss: address up to `/v1`.

    `settings` are speech settings under the names they have in a socket's query.
    """

    base_url: str = DEFAULT_URL
    voice_id: str = DEFAULT_VOICE
    audio_format: AudioFormat = field(default_factory=lambda: AudioFormat.parse(DEFAULT_FORMAT))
    settings: Mapping[str, float] = field(default_factory=dict)
    api_key: str | None = field(default=None, repr=False)

    @property
    def resource(self) -> str:
        """The path and query of the voice's `stream-input` endpoint."""
        query = {
            "output_format": self.audio_format.name,
            # The max of the protocol: the writer of the text may pause.
            "inactivity_timeout": MAX_INACTIVITY_TIMEOUT_S,
            **self.settings,
        }
        voice = quote(self.voice_id, safe="")
        path = f"{urlsplit(self.base_url).path}/v1/text-to-speech/{voice}/stream-input"
        return f"{path}?{urlencode(query)}"

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of the upgrade request beside those of RFC 6455."""
        return [] if self.api_key is None else [(b"xi-api-key", self.api_key.encode("ascii"))]


@dataclass(frozen=True, slots=True)
class SpeechTiming:
    """Timing of a call, counted from the moment its first text was sent; `first_audio_s` is TTFA.

    `real_time_factor` is the time to the last audio over `audio_s`: below 1 is faster than
    real time. Without audio it and `first_audio_s` are None; it and `audio_s` are None for formats
    without a constant byte rate.
    """

    first_audio_s: float | None
    audio_s: float | None
    real_time_factor: float | None
    chunks: int

    def __str__(self) -> str:
        if self.first_audio_s is None:
            return "no audio: the text was empty"
        fields = [f"first audio {self.first_audio_s * 1000:.0f} ms", f"{self.chunks} chunks"]
        if self.audio_s is not None and self.real_time_factor is not None:
            fields[1:1] = [
                f"audio {self.audio_s:.2f} s",
                f"real-time factor {self.real_time_factor:.2f}",
            ]
        return " | ".join(fields)


class Arrivals:
    """Arrival times of one call's audio, in seconds on one clock, noted in order.

    A WAV header alone does not count as audio.
    """

    def __init__(self, audio_format: AudioFormat) -> None:
        self._format = audio_format
        self._n_bytes = 0
        self._chunks = 0
        self._text_at_s: float | None = None
        self._first_at_s: float | None = None
        self._last_at_s = 0.0

    @property
    def audio_s(self) -> float | None:
        """Seconds of audio received; None for formats without a constant byte rate."""
        return self._format.duration_s(self._n_bytes)

    def note_text(self, now_s: float) -> None:
        """Note that text was sent; only the first time counts."""
        if self._text_at_s is None:
            self._text_at_s = now_s

    def note_audio(self, n_bytes: int, now_s: float) -> None:
        """Note the arrival of a chunk of `n_bytes`."""
        self._n_bytes += n_bytes
        self._chunks += 1
        self._last_at_s = now_s
        if self._first_at_s is None and self.audio_s != 0:
            self._first_at_s = now_s

    def timing(self) -> SpeechTiming:
        """Return the timing of the audio received so far."""
        audio_s = self.audio_s
        if self._text_at_s is None or self._first_at_s is None:
            return SpeechTiming(None, audio_s, None, self._chunks)
        elapsed_s = self._last_at_s - self._text_at_s
        return SpeechTiming(
            first_audio_s=self._first_at_s - self._text_at_s,
            audio_s=audio_s,
            real_time_factor=None if audio_s is None else elapsed_s / audio_s,
            chunks=self._chunks,
        )


class Call:
    """One session on a WebSocket, from connecting to the last audio: deltas in, audio out.

    `arrivals` can be read while it runs. Can `speak` once.
    """

    def __init__(self, target: SpeechTarget) -> None:
        self.arrivals = Arrivals(target.audio_format)
        self.hung_up = False
        self._target = target
        # Cancelling the connection ends the reader that a closing handshake needs, so hanging up
        # on an open socket only cancels the exchange.
        self._connection_scope = trio.CancelScope()
        self._exchange_scope = trio.CancelScope()
        self._open = False
        self._silence = trio.CancelScope()
        self._all_sent = False

    def hang_up(self) -> None:
        """End the session with a closing handshake; the second time, without."""
        if not self._open or self.hung_up:
            self._connection_scope.cancel()
        self._exchange_scope.cancel()
        self.hung_up = True

    async def speak(self, deltas: Deltas, on_audio: OnAudio) -> SpeechTiming:
        """Send `deltas` as they come, pass every chunk to `on_audio`, return after the last audio.

        Returns early after `hang_up`. Raises `SpeechError` if the server cannot be reached,
        refuses, reports an error, closes before its `isFinal` or sends nothing for 60 s.
        """
        failures: list[BaseException] = []
        try:
            with self._connection_scope:
                # trio-websocket leaves the stream open where the server refuses or closes first.
                async with await self._connect() as stream, trio.open_nursery() as reading:
                    socket = await self._upgrade(stream, reading)
                    self._open = True
                    failures += await self._exchange(socket, deltas, on_audio)
                    # Bounds the closing handshake and the wait for the server to close TCP.
                    self._connection_scope.deadline = trio.current_time() + _CLOSE_TIMEOUT_S
                    await socket.aclose()
        except* ConnectionRejected as group:
            failures += [_refusal(error) for error in group.exceptions]
        except* SpeechError as group:
            failures += group.exceptions
        if failures:
            raise failures[0]
        return self.arrivals.timing()

    async def _connect(self) -> _Wire:
        url = urlsplit(self._target.base_url)
        secure, host = url.scheme == "wss", url.hostname or ""
        try:
            with trio.fail_after(_CONNECT_TIMEOUT_S):
                stream = await trio.open_tcp_stream(host, url.port or (443 if secure else 80))
                if not secure:
                    return stream
                context = ssl.create_default_context()
                secured = trio.SSLStream(
                    stream, context, server_hostname=host, https_compatible=True
                )
                await secured.do_handshake()
                return secured
        except OSError as error:
            raise self._unreachable(error.strerror or str(error)) from None
        except trio.BrokenResourceError as error:
            raise self._unreachable(str(error.__cause__ or "TLS failed")) from None
        except trio.TooSlowError:
            raise self._unreachable(f"no answer within {_CONNECT_TIMEOUT_S:g} seconds") from None

    async def _upgrade(self, stream: _Wire, reading: trio.Nursery) -> WebSocketConnection:
        """Open the socket over `stream`, with its reader in `reading`.

        A refusal ends `reading` with `ConnectionRejected`.
        """
        base_url = self._target.base_url
        try:
            with trio.fail_after(_CONNECT_TIMEOUT_S):
                return await wrap_client_stream(
                    reading,
                    stream,
                    urlsplit(base_url).netloc,
                    self._target.resource,
                    extra_headers=self._target.headers,
                    max_message_size=_MAX_MESSAGE_BYTES,
                    receive_buffer_size=_RECEIVE_BYTES,
                )
        except trio.TooSlowError:
            problem = f"no WebSocket answer within {_CONNECT_TIMEOUT_S:g} seconds"
            raise self._unreachable(problem) from None

    def _unreachable(self, problem: str) -> SpeechError:
        return SpeechError(f"Cannot connect to {self._target.base_url}: {_one_line(problem)}.")

    async def _exchange(
        self, socket: WebSocketConnection, deltas: Deltas, on_audio: OnAudio
    ) -> list[BaseException]:
        """Send and receive until the last audio or `hang_up`; return the failures."""
        # Returned, not raised: a closing handshake that runs out of time would hide them.
        failures: list[BaseException] = []
        try:
            with self._exchange_scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send, socket, deltas)
                    await self._receive(socket, on_audio)
                    nursery.cancel_scope.cancel()
        except* SpeechError as group:
            failures += group.exceptions
        return failures

    async def _send(self, socket: WebSocketConnection, deltas: Deltas) -> None:
        try:
            async with aclosing(deltas):
                async for delta in deltas:
                    if delta:  # an empty text would end the stream
                        await self._send_text(socket, delta)
            await self._send_text(socket, "")
        except ConnectionClosed:
            return  # `_receive` reports the reason
        self._all_sent = True
        self._expect_message()

    async def _send_text(self, socket: WebSocketConnection, text: str) -> None:
        if text.strip():
            self.arrivals.note_text(trio.current_time())
        with trio.move_on_after(_SILENCE_TIMEOUT_S) as patience:
            await socket.send_message(json.dumps({"text": text}))
        if patience.cancelled_caught:
            raise SpeechError(f"The server took no text for {_SILENCE_TIMEOUT_S:g} seconds.")

    def _expect_message(self) -> None:
        """Bound the wait for the server's next message once all text is sent."""
        if self._all_sent:
            self._silence.deadline = trio.current_time() + _SILENCE_TIMEOUT_S

    async def _receive(self, socket: WebSocketConnection, on_audio: OnAudio) -> None:
        final = False
        while not final:
            audio, final = _parse_message(await self._next_message(socket))
            if audio:
                self.arrivals.note_audio(len(audio), trio.current_time())
                await on_audio(audio)

    async def _next_message(self, socket: WebSocketConnection) -> str | bytes:
        with trio.CancelScope() as self._silence:
            self._expect_message()
            try:
                return await socket.get_message()
            except ConnectionClosed as error:
                raise SpeechError(_closed_early(error.reason)) from None
        raise SpeechError(f"The server sent nothing for {_SILENCE_TIMEOUT_S:g} seconds.")


def _parse_message(message: str | bytes) -> tuple[bytes, bool]:
    """Return a message's audio, empty if it has none, and whether the message is the last.

    Raises `SpeechError` with the server's own text for an error message.
    """
    try:
        if isinstance(message, bytes):
            raise ValueError("not text")
        fields = parse_object(message)
        audio = fields.get("audio")
        data = base64.b64decode(audio, validate=True) if isinstance(audio, str) else b""
    except ValueError:
        raise SpeechError("The server sent a message that cannot be read.") from None
    if fields.get("error") is not None:
        raise SpeechError(_one_line(fields.get("message") or fields["error"]))
    return data, fields.get("isFinal") is True


def _closed_early(reason: CloseReason | None) -> str:
    if reason is not None and reason.reason:
        return _one_line(reason.reason)
    code = "" if reason is None else f" (close code {reason.code})"
    return f"The server closed the connection before the last audio{code}."


def _refusal(error: BaseException) -> SpeechError:
    """Return the error of a refused upgrade, with the text of its body if that is ElevenLabs'.

    Bodies are `{"detail": {"message": …}}` and, for wrong fields, `{"detail": [{"loc", "msg"}]}`.
    """
    assert isinstance(error, ConnectionRejected)
    try:
        detail = parse_object((error.body or b"").decode("utf-8")).get("detail")
    except ValueError:
        detail = None
    reason: object = None
    match detail:
        case {"message": reason} | str(reason):
            pass
        case [{"loc": [*_, name], "msg": message}, *_]:
            reason = message if str(name) in str(message) else f"{name}: {message}"
    if not reason:
        return SpeechError(f"The server refused with HTTP status {error.status_code}.")
    return SpeechError(f"{_one_line(reason)} (HTTP status {error.status_code})")


def _one_line(text: object) -> str:
    """Return the server's text without characters that are unsafe on a terminal."""
    return "".join(char if char.isprintable() else " " for char in str(text)).strip()
