"""ElevenLabs' doors: text to speech over REST."""

import json
from typing import cast

from quart import Blueprint, Response, request

from csm_trio.api.doors import House
from csm_trio.api.streaming import Speech
from csm_trio.audio.wav import with_true_lengths
from csm_trio.errors import SpeechError
from csm_trio.pipeline.context import SpeechOrder
from csm_trio.protocol.events import SpeechSettings
from csm_trio.protocol.faults import rest_fault
from csm_trio.protocol.speech_request import SpeechRequest, parse_speech_request
from csm_trio.protocol.timestamps import timestamp_line, timestamp_style
from csm_trio.telemetry import session_id

LIVE, BATCH = SpeechSettings(), SpeechSettings(batch=True)
"""What a request's priority is unless it says: nobody listens yet to a body made whole first."""

_ROUTE = "/v1/text-to-speech/<voice_id>"


def elevenlabs_blueprint(house: House) -> Blueprint:
    """Return the REST routes under `/v1/text-to-speech`."""
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


def _sse_event(chunk: bytes) -> bytes:
    return f"data: {timestamp_line(chunk)}\n\n".encode()


def _json_line(chunk: bytes) -> bytes:
    return f"{timestamp_line(chunk)}\n".encode()
