"""ElevenLabs' text-to-dialogue over REST: the turns of several voices in one audio stream."""

from quart import Blueprint, Response, request

from csm_trio.api.responses import BATCH, LIVE, read_body, start_stream, timestamp_response
from csm_trio.api.speech_body import speech_response
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
        """Synthesize the whole dialogue, then answer with all audio and its length."""
        stream, parsed = await _start_stream(state, BATCH)
        whole = await stream.collect()
        return Response(whole.data, content_type=parsed.audio_format.content_type)

    @blueprint.post(f"{_ROUTE}/stream")
    async def convert_streaming() -> Response:
        """Answer with the same audio as it is made."""
        stream, _ = await _start_stream(state, LIVE)
        return speech_response(stream)

    @blueprint.post(f"{_ROUTE}/with-timestamps")
    async def convert_with_timestamps() -> Response:
        """Synthesize the whole dialogue, then answer with one JSON object."""
        stream, parsed = await _start_stream(state, BATCH, aligned=True)
        chunks = await stream.collect_chunks()
        segments = voice_segments(chunks, parsed.voice_ids)
        body = timestamp_object(stream.join(chunks), voice_segments=segments)
        return Response(body, content_type="application/json")

    @blueprint.post(f"{_ROUTE}/stream/with-timestamps")
    async def stream_with_timestamps() -> Response:
        """Answer with JSON objects as they are made, one a line or one an SSE event."""
        stream, parsed = await _start_stream(state, LIVE, aligned=True)

        def write(audio: Audio) -> str:
            return timestamp_object(audio, voice_segments=voice_segments([audio], parsed.voice_ids))

        return timestamp_response(stream, write)

    return blueprint


async def _start_stream(
    state: ServerState, defaults: SpeechSettings, *, aligned: bool = False
) -> tuple[SpeechStream, DialogueRequest]:
    """Check the request, admit the session and start its synthesis."""
    parsed = parse_dialogue_request(
        await read_body(), request.args, max_chars=state.speech.max_text_chars
    )
    voices = {turn.voice_id: state.voices.get(turn.voice_id) for turn in parsed.inputs}
    spec = state.context_spec(
        "",
        voices[parsed.inputs[0].voice_id],
        parsed.audio_format,
        defaults.overridden_by(parsed.settings),
        max_audio_len_ms=state.speech.rest_max_audio_len_ms,
        dialogue=True,
        aligned=aligned,
        never_empty=True,
    )
    deltas: list[AddText | Flush] = []
    for turn in parsed.inputs:
        speaker_id = voices[turn.voice_id].speaker_id
        voice = SpeechSettings(speaker_id=speaker_id, voice_id=turn.voice_id)
        deltas += [AddText("", turn.text, voice), Flush("")]
    return await start_stream(state, spec, deltas, chars=parsed.chars), parsed
