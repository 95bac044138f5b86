"""ElevenLabs' text-to-dialogue over REST: several voices by turns, in one stream of speech."""

from quart import Blueprint, Response, request

from csm_trio.api.responses import BATCH, LIVE, read_body, start_speech, timestamp_response
from csm_trio.api.speech_stream import Speech
from csm_trio.api.state import House
from csm_trio.protocol.elevenlabs.dialogue_request import DialogueRequest, parse_dialogue_request
from csm_trio.protocol.elevenlabs.timestamps import timestamp_object, voice_segments
from csm_trio.protocol.events import AddText, Audio, Flush, SpeechSettings

_ROUTE = "/v1/text-to-dialogue"


def dialogue_blueprint(house: House) -> Blueprint:
    """Return the REST routes under `/v1/text-to-dialogue`."""
    blueprint = Blueprint("dialogue", __name__)

    @blueprint.post(_ROUTE)
    async def convert() -> Response:
        """Speak the whole dialogue, then answer with all of it and its length."""
        speech, asked = await _begin_speech(house, BATCH)
        whole = await speech.whole()
        return Response(whole.data, content_type=asked.audio_format.content_type)

    @blueprint.post(f"{_ROUTE}/stream")
    async def stream() -> Response:
        """Answer with the same bytes as they are made."""
        speech, _ = await _begin_speech(house, LIVE)
        return speech.response()

    @blueprint.post(f"{_ROUTE}/with-timestamps")
    async def convert_with_timestamps() -> Response:
        """Speak the whole dialogue, then answer with one JSON object."""
        speech, asked = await _begin_speech(house, BATCH, aligned=True)
        pieces = await speech.pieces()
        segments = voice_segments(pieces, asked.voice_ids)
        body = timestamp_object(speech.joined(pieces), voice_segments=segments)
        return Response(body, content_type="application/json")

    @blueprint.post(f"{_ROUTE}/stream/with-timestamps")
    async def stream_with_timestamps() -> Response:
        """Answer with JSON objects as they are made, one a line or one an SSE event."""
        speech, asked = await _begin_speech(house, LIVE, aligned=True)

        def write(audio: Audio) -> str:
            return timestamp_object(audio, voice_segments=voice_segments([audio], asked.voice_ids))

        return timestamp_response(speech, write)

    return blueprint


async def _begin_speech(
    house: House, usual: SpeechSettings, *, aligned: bool = False
) -> tuple[Speech, DialogueRequest]:
    """Check the request, admit the call and start speaking the first line."""
    asked = parse_dialogue_request(
        await read_body(), request.args, max_chars=house.speech.max_text_chars
    )
    voices = {line.voice_id: house.voices.get(line.voice_id) for line in asked.lines}
    order = house.order(
        "",
        voices[asked.lines[0].voice_id],
        asked.audio_format,
        usual.overridden_by(asked.settings),
        max_audio_len_ms=house.speech.rest_max_audio_len_ms,
    )
    order.dialogue = True
    order.aligned = aligned
    deltas: list[AddText | Flush] = []
    for line in asked.lines:
        speaker_id = voices[line.voice_id].speaker_id
        whose = SpeechSettings(speaker_id=speaker_id, voice_id=line.voice_id)
        deltas += [AddText("", line.text, whose), Flush("")]
    return await start_speech(house, order, deltas, chars=asked.chars), asked
