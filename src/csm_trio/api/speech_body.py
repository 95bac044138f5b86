"""An HTTP answer's body of speech, sent chunk by chunk while it is synthesized."""

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Self

from quart import Response
from quart.wrappers.response import ResponseBody

from csm_trio.api.speech_stream import SpeechStream
from csm_trio.errors import SpeechError
from csm_trio.protocol.events import Audio

logger = logging.getLogger(__name__)


class SpeechBody(ResponseBody):
    """The chunks of a stream, each as `serialize` writes it, then the `trailer`."""

    def __init__(
        self,
        stream: SpeechStream,
        serialize: Callable[[Audio], bytes],
        trailer: Callable[[], bytes] | None,
    ) -> None:
        self._stream = stream
        self._serialize = serialize
        self._trailer = trailer
        self._ended = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stream.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return the next bytes of the answer."""
        if not self._ended:
            try:
                return self._serialize(await anext(self._stream))
            except StopAsyncIteration:
                self._ended = True
            except SpeechError as error:
                # The status is out: only a broken answer shows the client that it is incomplete.
                logger.info("answer broken off: %s", type(error).__name__)
                await self._stream.cancel_request()
        trailer, self._trailer = self._trailer, None
        if trailer is None:
            raise StopAsyncIteration
        return trailer()


def speech_response(
    stream: SpeechStream,
    content_type: str | None = None,
    *,
    serialize: Callable[[Audio], bytes] | None = None,
    trailer: Callable[[], bytes] | None = None,
) -> Response:
    """Answer with the chunks as they are made; by default the encoded audio itself."""
    body = SpeechBody(stream, serialize or _audio_bytes, trailer)
    response = Response(body, content_type=content_type or stream.audio_format.content_type)
    # Quart would end the answer after 60 s, without an error.
    response.timeout = None
    return response


def _audio_bytes(audio: Audio) -> bytes:
    return audio.data
