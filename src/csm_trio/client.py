"""One voice's speech over a server's public socket: deltas in, encoded audio and its timing out.

It rings at the door like any other client: it knows the protocol and the formats of sound, and
nothing of what stands behind them, nor where the sound goes.
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
Listener = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class SpeechTarget:
    """Whom to call and what to ask for; `base_url` is a ws: or wss: address without its tail.

    `settings` are speech settings under the names they have in a socket's query.
    """

    base_url: str = DEFAULT_URL
    voice_id: str = DEFAULT_VOICE
    audio_format: AudioFormat = field(default_factory=lambda: AudioFormat.parse(DEFAULT_FORMAT))
    settings: Mapping[str, float] = field(default_factory=dict)
    api_key: str | None = field(default=None, repr=False)

    @property
    def resource(self) -> str:
        """The voice's `stream-input` socket as a path of its server, with all that is asked."""
        asked = {
            "output_format": self.audio_format.name,
            # The longest the vendor knows: the writer of our text may pause to think.
            "inactivity_timeout": MAX_INACTIVITY_TIMEOUT_S,
            **self.settings,
        }
        voice = quote(self.voice_id, safe="")
        path = f"{urlsplit(self.base_url).path}/v1/text-to-speech/{voice}/stream-input"
        return f"{path}?{urlencode(asked)}"

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """What the upgrade request carries beyond the protocol's own headers."""
        return [] if self.api_key is None else [(b"xi-api-key", self.api_key.encode("ascii"))]


@dataclass(frozen=True, slots=True)
class SpeechTiming:
    """How fast speech came, counted from the moment its first text was sent.

    `real_time_factor` is the time to the last audio over `audio_s`: below 1 is faster than it
    plays. Where no audio came, it and `first_audio_s` are None; `audio_s` and it are None where
    the format's bytes do not tell time.
    """

    first_audio_s: float | None
    audio_s: float | None
    real_time_factor: float | None
    chunks: int

    def __str__(self) -> str:
        if self.first_audio_s is None:
            return "no audio: there was nothing to say"
        parts = [f"first audio {self.first_audio_s * 1000:.0f} ms", f"{self.chunks} chunks"]
        if self.audio_s is not None and self.real_time_factor is not None:
            parts[1:1] = [
                f"audio {self.audio_s:.2f} s",
                f"real-time factor {self.real_time_factor:.2f}",
            ]
        return " | ".join(parts)


class Arrivals:
    """When one call's audio came; times are seconds on one clock, in the order they are noted.

    A WAV header plays for no time, so it is not yet audio.
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
        """How long what has come plays; None where the format's bytes do not tell time."""
        return self._format.duration_s(self._n_bytes)

    def note_text(self, now_s: float) -> None:
        """Note that text is sent; only the first counts."""
        if self._text_at_s is None:
            self._text_at_s = now_s

    def note_audio(self, n_bytes: int, now_s: float) -> None:
        """Note that a chunk of `n_bytes` came."""
        self._n_bytes += n_bytes
        self._chunks += 1
        self._last_at_s = now_s
        if self._first_at_s is None and self.audio_s != 0:
            self._first_at_s = now_s

    def timing(self) -> SpeechTiming:
        """Return the times of all that came so far."""
        audio_s = self.audio_s
        if self._text_at_s is None or self._first_at_s is None:
            return SpeechTiming(None, audio_s, None, self._chunks)
        taken_s = self._last_at_s - self._text_at_s
        return SpeechTiming(
            first_audio_s=self._first_at_s - self._text_at_s,
            audio_s=audio_s,
            real_time_factor=None if audio_s is None else taken_s / audio_s,
            chunks=self._chunks,
        )


class Call:
    """One socket, from dialing to the last word: deltas in, encoded audio out.

    `arrivals` can be read while it runs. Good for one `speak`.
    """

    def __init__(self, target: SpeechTarget) -> None:
        self.arrivals = Arrivals(target.audio_format)
        self.hung_up = False
        self._target = target
        # Cancelling the line kills the reader that a closing handshake needs, so hanging up on an
        # open socket only ends the talk.
        self._line = trio.CancelScope()
        self._talk = trio.CancelScope()
        self._open = False
        self._silence = trio.CancelScope()
        self._all_sent = False

    def hang_up(self) -> None:
        """End the call with a closing handshake; a second time, without."""
        if not self._open or self.hung_up:
            self._line.cancel()
        self._talk.cancel()
        self.hung_up = True

    async def speak(self, deltas: Deltas, listen: Listener) -> SpeechTiming:
        """Send `deltas` as they come, give every chunk to `listen`, return when all is said.

        Returns early after `hang_up`. Raises `SpeechError` if the server cannot be reached,
        refuses, reports an error, leaves before its `isFinal` or falls silent.
        """
        failures: list[BaseException] = []
        try:
            with self._line:
                # The stream is ours to close: trio-websocket leaves it open where the server
                # refuses, or closes first.
                async with await self._dial() as stream, trio.open_nursery() as reading:
                    socket = await self._upgrade(stream, reading)
                    self._open = True
                    failures += await self._converse(socket, deltas, listen)
                    # Bounds the closing handshake and the wait for the server's end of TCP.
                    self._line.deadline = trio.current_time() + _CLOSE_TIMEOUT_S
                    await socket.aclose()
        except* ConnectionRejected as group:
            failures += [_refusal(error) for error in group.exceptions]
        except* SpeechError as group:
            failures += group.exceptions
        if failures:
            raise failures[0]
        return self.arrivals.timing()

    async def _dial(self) -> _Wire:
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

    async def _converse(
        self, socket: WebSocketConnection, deltas: Deltas, listen: Listener
    ) -> list[BaseException]:
        """Send and receive until all is said or hung up; return what went wrong.

        Returned, not raised: a closing handshake that runs out of time would hide it.
        """
        failures: list[BaseException] = []
        try:
            with self._talk:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send, socket, deltas)
                    await self._receive(socket, listen)
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
            return  # the receiver learns why
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
        """Bound the wait for the server's next message; it is endless until all is sent."""
        if self._all_sent:
            self._silence.deadline = trio.current_time() + _SILENCE_TIMEOUT_S

    async def _receive(self, socket: WebSocketConnection, listen: Listener) -> None:
        final = False
        while not final:
            audio, final = _parse_frame(await self._next_message(socket))
            if audio:
                self.arrivals.note_audio(len(audio), trio.current_time())
                await listen(audio)

    async def _next_message(self, socket: WebSocketConnection) -> str | bytes:
        with trio.CancelScope() as self._silence:
            self._expect_message()
            try:
                return await socket.get_message()
            except ConnectionClosed as error:
                raise SpeechError(_closed_early(error.reason)) from None
        raise SpeechError(f"The server sent nothing for {_SILENCE_TIMEOUT_S:g} seconds.")


def _parse_frame(message: str | bytes) -> tuple[bytes, bool]:
    """Return a frame's audio, empty where it has none, and whether it is the last.

    Raises `SpeechError` with the server's own message for an error frame.
    """
    try:
        if isinstance(message, bytes):
            raise ValueError("not text")
        frame = parse_object(message)
        audio = frame.get("audio")
        data = base64.b64decode(audio, validate=True) if isinstance(audio, str) else b""
    except ValueError:
        raise SpeechError("The server sent a message that cannot be read.") from None
    if frame.get("error") is not None:
        raise SpeechError(_one_line(frame.get("message") or frame["error"]))
    return data, frame.get("isFinal") is True


def _closed_early(reason: CloseReason | None) -> str:
    if reason is not None and reason.reason:
        return _one_line(reason.reason)
    code = "" if reason is None else f" (close code {reason.code})"
    return f"The server closed the connection before all was said{code}."


def _refusal(error: BaseException) -> SpeechError:
    """Say why an upgrade was refused, in the words of the vendor's two error bodies if it can.

    They are `{"detail": {"message": …}}` and, for wrong fields, `{"detail": [{"loc", "msg"}]}`.
    """
    assert isinstance(error, ConnectionRejected)
    try:
        detail = parse_object((error.body or b"").decode("utf-8")).get("detail")
    except ValueError:
        detail = None
    said: object = None
    match detail:
        case {"message": said} | str(said):
            pass
        case [{"loc": [*_, name], "msg": message}, *_]:
            said = message if str(name) in str(message) else f"{name}: {message}"
    if not said:
        return SpeechError(f"The server refused with HTTP status {error.status_code}.")
    return SpeechError(f"{_one_line(said)} (HTTP status {error.status_code})")


def _one_line(said: object) -> str:
    """Return the server's words as they are safe on a terminal."""
    return "".join(char if char.isprintable() else " " for char in str(said)).strip()
