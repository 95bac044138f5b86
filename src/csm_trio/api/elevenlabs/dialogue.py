"""ElevenLabs' text-to-dialogue over REST: several voices by turns, in one stream of speech."""

from quart import Blueprint, Response, request

from csm_trio.api.responses import BATCH, LIVE, read_body, start_speech, timestamp_response
from csm_trio.api.speech_stream import SpeechStream
from csm_trio.api.state import ServerState
from csm_trio.protocol.elevenlabs.dialogue_request import DialogueRequest, parse_dialogue_request
from csm_trio.protocol.elevenlabs.timestamps import timestamp_object, voice_segments
from csm_trio.protocol.events import AddText, Audio, Flush, SpeechSettings

_ROUTE = "/v1/text-to-dialogue"


def dialogue_blueprint(state: ServerState) -> Blueprint:
    """Return the REST routes under `/v1/text-to-dialogue`."""
    blueprint = Blueprint("dialogue", __name__)

    @blueprint.post(_ROUTE)
    async def convert() -> Response:
        """Speak the whole dialogue, then answer with all of it and its length."""
        speech, asked = await _begin_speech(state, BATCH)
        whole = await speech.whole()
        return Response(whole.data, content_type=asked.audio_format.content_type)

    @blueprint.post(f"{_ROUTE}/stream")
    async def stream() -> Response:
        """Answer with the same bytes as they are made."""
        speech, _ = await _begin_speech(state, LIVE)
        return speech.response()

    @blueprint.post(f"{_ROUTE}/with-timestamps")
    async def convert_with_timestamps() -> Response:
        """Speak the whole dialogue, then answer with one JSON object."""
        speech, asked = await _begin_speech(state, BATCH, aligned=True)
        pieces = await speech.pieces()
        segments = voice_segments(pieces, asked.voice_ids)
        body = timestamp_object(speech.joined(pieces), voice_segments=segments)
        return Response(body, content_type="application/json")

    @blueprint.post(f"{_ROUTE}/stream/with-timestamps")
    async def stream_with_timestamps() -> Response:
        """Answer with JSON objects as they are made, one a line or one an SSE event."""
        speech, asked = await _begin_speech(state, LIVE, aligned=True)

        def write(audio: Audio) -> str:
            return timestamp_object(audio, voice_segments=voice_segments([audio], asked.voice_ids))

        return timestamp_response(speech, write)

    return blueprint


async def _begin_speech(
    state: ServerState, usual: SpeechSettings, *, aligned: bool = False
) -> tuple[SpeechStream, DialogueRequest]:
    """Check the request, admit the call and start speaking the first line."""
    asked = parse_dialogue_request(
        await read_body(), request.args, max_chars=state.speech.max_text_chars
    )
    voices = {line.voice_id: state.voices.get(line.voice_id) for line in asked.inputs}
    spec = state.spec(
        "",
        voices[asked.inputs[0].voice_id],
        asked.audio_format,
        usual.overridden_by(asked.settings),
        max_audio_len_ms=state.speech.rest_max_audio_len_ms,
    )
    spec.dialogue = True
    spec.aligned = aligned
    deltas: list[AddText | Flush] = []
    for line in asked.inputs:
        speaker_id = voices[line.voice_id].speaker_id
        whose = SpeechSettings(speaker_id=speaker_id, voice_id=line.voice_id)
        deltas += [AddText("", line.text, whose), Flush("")]
    return await start_speech(state, spec, deltas, chars=asked.chars), asked
