"""ElevenLabs' text-to-speech over REST."""

from quart import Blueprint, Response, request

from csm_trio.api.responses import (
    BATCH,
    LIVE,
    error_response,
    read_body,
    start_request,
    timestamp_response,
)
from csm_trio.api.speech_body import speech_response
from csm_trio.api.speech_stream import SpeechStream
from csm_trio.api.state import ServerState
from csm_trio.errors import SpeechError
from csm_trio.protocol.elevenlabs.errors import rest_error
from csm_trio.protocol.elevenlabs.speech_request import parse_speech_request
from csm_trio.protocol.elevenlabs.timestamps import timestamp_object
from csm_trio.protocol.events import SpeechSettings
from csm_trio.telemetry import session_id

_ROUTE = "/v1/text-to-speech/<voice_id>"


def elevenlabs_blueprint(state: ServerState) -> Blueprint:
    """Return the REST routes under `/v1/text-to-speech`."""
    blueprint = Blueprint("elevenlabs", __name__)

    @blueprint.post(_ROUTE)
    async def convert(voice_id: str) -> Response:
        """Synthesize the whole text, then answer with all audio and its length."""
        stream = await _start_stream(state, voice_id, BATCH)
        whole = await stream.collect()
        return Response(whole.data, content_type=stream.audio_format.content_type)

    @blueprint.post(f"{_ROUTE}/stream")
    async def convert_streaming(voice_id: str) -> Response:
        """Answer with the same audio as it is made."""
        stream = await _start_stream(state, voice_id, LIVE)
        return speech_response(stream)

    @blueprint.post(f"{_ROUTE}/with-timestamps")
    async def convert_with_timestamps(voice_id: str) -> Response:
        """Synthesize the whole text, then answer with one JSON object."""
        stream = await _start_stream(state, voice_id, BATCH, aligned=True)
        whole = await stream.collect()
        return Response(timestamp_object(whole), content_type="application/json")

    @blueprint.post(f"{_ROUTE}/stream/with-timestamps")
    async def stream_with_timestamps(voice_id: str) -> Response:
        """Answer with JSON objects as they are made, one a line or one an SSE event."""
        stream = await _start_stream(state, voice_id, LIVE, aligned=True)
        return timestamp_response(stream, timestamp_object)

    return blueprint


def elevenlabs_error_response(state: ServerState, error: SpeechError) -> Response:
    """Answer a SpeechError in the vendor's form."""
    return error_response(state, error, rest_error(error, request_id=session_id.get()))


async def _start_stream(
    state: ServerState, voice_id: str, defaults: SpeechSettings, *, aligned: bool = False
) -> SpeechStream:
    parsed = parse_speech_request(
        await read_body(),
        request.args,
        voice_id=voice_id,
        max_chars=state.speech.max_text_chars,
    )
    voice = state.voices.get(voice_id)
    return await start_request(state, voice, parsed, defaults, aligned=aligned)
