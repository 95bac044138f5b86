"""ElevenLabs' doors: text to speech over REST, and the `stream-input` socket."""

import json
import logging
from typing import cast

import trio
from quart import Blueprint, Response, ResponseReturnValue, request, websocket

from csm_trio.api.doors import House, presented_key
from csm_trio.api.streaming import Speech
from csm_trio.audio.wav import with_true_lengths
from csm_trio.errors import EngineFailed, SpeechError, Unauthorized
from csm_trio.pipeline.context import SpeechOrder
from csm_trio.pipeline.session import Session, SessionTerms
from csm_trio.protocol.elevenlabs import SocketQuery, StreamInputProtocol, parse_socket_query
from csm_trio.protocol.events import SpeechSettings
from csm_trio.protocol.faults import rest_fault, socket_fault
from csm_trio.protocol.speech_request import SpeechRequest, parse_speech_request
from csm_trio.protocol.timestamps import timestamp_line, timestamp_style
from csm_trio.telemetry import session_id

logger = logging.getLogger(__name__)

GOODBYE_S = 0.8
"""Between an error frame and the close, as recorded from the vendor: a client whose reader is
not up yet when both arrive at once hangs for ever (LiveKit's plugin)."""

LIVE, BATCH = SpeechSettings(), SpeechSettings(batch=True)
"""What a request's priority is unless it says: nobody listens yet to a body made whole first."""

_ROUTE = "/v1/text-to-speech/<voice_id>"


def elevenlabs_blueprint(house: House) -> Blueprint:
    """Return the routes under `/v1/text-to-speech`."""
    blueprint = Blueprint("elevenlabs", __name__)

    @blueprint.post(_ROUTE)
    async def convert(voice_id: str) -> Response:
        """Speak the whole text, then answer with all of it and its length."""
        speech, order = await _begin_speech(house, voice_id, BATCH)
        async with speech:
            body = b"".join([chunk async for chunk in speech])
        if order.audio_format.codec == "wav":
            body = with_true_lengths(body)
        return Response(body, content_type=order.audio_format.content_type)

    @blueprint.post(f"{_ROUTE}/stream")
    async def stream(voice_id: str) -> Response:
        """Answer with the same bytes as they are made."""
        speech, order = await _begin_speech(house, voice_id, LIVE)
        return speech.response(order.audio_format.content_type)

    @blueprint.post(f"{_ROUTE}/stream/with-timestamps")
    async def stream_with_timestamps(voice_id: str) -> Response:
        """Answer with JSON objects as they are made, one a line or one an SSE event."""
        style = timestamp_style(
            request.headers.get("accept"), has_api_key_header="xi-api-key" in request.headers
        )
        speech, _ = await _begin_speech(house, voice_id, LIVE)
        if style == "sse":
            return speech.response("text/event-stream", dress=_sse_event)
        return speech.response("application/x-ndjson", dress=_json_line)

    @blueprint.websocket(f"{_ROUTE}/stream-input")
    async def stream_input(voice_id: str) -> ResponseReturnValue | None:
        """Converse: text in while it is being written, speech out while it is being made."""
        try:
            query = parse_socket_query(websocket.args)
            place = house.admission.admit()
        except SpeechError as error:
            # Before the upgrade: the refusal is an HTTP answer with a true status.
            return fault_response(house, error)
        with place:
            await websocket.accept()
            await _converse(house, voice_id, query)
        return None

    return blueprint


def fault_response(house: House, error: SpeechError) -> Response:
    """Answer a SpeechError in the vendor's form."""
    house.metrics.refusals.labels(type(error).__name__).inc()
    fault = rest_fault(error, request_id=session_id.get())
    return Response(
        json.dumps(fault.body),
        status=fault.status,
        headers=fault.headers,
        content_type="application/json",
    )


async def _begin_speech(
    house: House, voice_id: str, usual: SpeechSettings
) -> tuple[Speech, SpeechOrder]:
    """Check the request, admit the call and start speaking; `usual` is what it may replace."""
    body = cast(bytes, await request.get_data(as_text=False))
    asked: SpeechRequest = parse_speech_request(
        body,
        request.args,
        voice_id=voice_id,
        max_chars=house.speech.max_text_chars,
    )
    order = house.order(
        "",
        house.voices.get(voice_id),
        asked.audio_format,
        usual.overridden_by(asked.settings),
        max_audio_len_ms=house.speech.rest_max_audio_len_ms,
    )
    house.metrics.characters.inc(len(asked.text))
    speech = await Speech.begin(house.speaker, order, text=asked.text, admission=house.admission)
    return speech, order


async def _converse(house: House, voice_id: str, query: SocketQuery) -> None:
    """Run a session; if it ends in an error, say which, wait, and close with its code."""
    try:
        await _run_session(house, voice_id, query)
    except SpeechError as error:
        house.metrics.refusals.labels(type(error).__name__).inc()
        await _say_goodbye(error)
    except Exception:
        # A door's broad except: what leaves a socket handler would close 1000, as if all
        # had gone well.
        logger.exception("session failed")
        await _say_goodbye(EngineFailed())


async def _run_session(house: House, voice_id: str, query: SocketQuery) -> None:
    key = presented_key(websocket.headers, websocket.args)
    needs_key = house.server.api_key is not None and key is None
    if key is not None and not house.accepts(key):
        raise Unauthorized
    voice = house.voices.get(voice_id)

    def open_order(context_id: str, settings: SpeechSettings) -> SpeechOrder:
        return house.order(
            context_id,
            voice,
            query.audio_format,
            query.settings.overridden_by(settings),
            max_audio_len_ms=house.speech.ws_max_audio_len_ms,
        )

    terms = SessionTerms(
        open_order, query.inactivity_timeout_s, house.accepts if needs_key else None
    )
    protocol = StreamInputProtocol(auto_mode=query.auto_mode)
    session = Session(protocol, house.speaker, terms, house.metrics)
    await session.run(_next_message, websocket.send)


async def _next_message() -> str | bytes:
    # quart-trio makes None of an empty message.
    return await websocket.receive() or ""


async def _say_goodbye(error: SpeechError) -> None:
    fault = socket_fault(error)
    await websocket.send(fault.frame())
    with trio.move_on_after(GOODBYE_S):
        while True:  # Reading on: a hang-up must be heard now, too.
            await websocket.receive()
    await websocket.close(fault.code, fault.reason)


def _sse_event(chunk: bytes) -> bytes:
    return f"data: {timestamp_line(chunk)}\n\n".encode()


def _json_line(chunk: bytes) -> bytes:
    return f"{timestamp_line(chunk)}\n".encode()
