"""OpenAI's endpoints: `POST /v1/audio/speech` and its lists."""

from quart import Blueprint, Response, has_request_context, request

from csm_trio.api.responses import LIVE, read_body, start_request
from csm_trio.api.speech_body import speech_response
from csm_trio.api.state import ServerState
from csm_trio.protocol.openai import (
    VOICE_NAMES,
    JsonObject,
    audio_event,
    audio_models_body,
    audio_voices_body,
    done_event,
    model_body,
    parse_openai_request,
)


def is_openai_request() -> bool:
    """Return whether the current request follows OpenAI's convention.

    `/v1/models` belongs to both conventions; the header `xi-api-key` marks ElevenLabs'.
    """
    if not has_request_context():
        return False  # A socket without a route: OpenAI's convention has no sockets here.
    if request.path.startswith("/v1/audio/"):
        return True
    is_model = request.path == "/v1/models" or request.path.startswith("/v1/models/")
    return is_model and "xi-api-key" not in request.headers


def openai_blueprint(state: ServerState) -> Blueprint:
    """Return the routes under `/v1/audio`, and `/v1/models/{model}`."""
    blueprint = Blueprint("openai", __name__)

    @blueprint.post("/v1/audio/speech")
    async def speech() -> Response:
        """Answer with audio as it is made: bytes, or server-sent events."""
        parsed = parse_openai_request(await read_body(), max_chars=state.speech.max_text_chars)
        voice = state.voices.get_or_nth(parsed.speech.voice_id, VOICE_NAMES)
        stream = await start_request(state, voice, parsed.speech, LIVE)
        if not parsed.as_events:
            return speech_response(stream)
        return speech_response(
            stream,
            "text/event-stream",
            serialize=audio_event,
            trailer=lambda: done_event(
                input_tokens=len(parsed.speech.text), output_tokens=stream.progress.spoken_frames
            ),
        )

    @blueprint.get("/v1/models/<path:model>")
    async def model(model: str) -> JsonObject:
        """Show one model."""
        return model_body(model)

    @blueprint.get("/v1/audio/models")
    async def audio_models() -> JsonObject:
        """List the models."""
        return audio_models_body()

    @blueprint.get("/v1/audio/voices")
    async def audio_voices() -> JsonObject:
        """List the voices."""
        return audio_voices_body(state.voices.all())

    return blueprint
