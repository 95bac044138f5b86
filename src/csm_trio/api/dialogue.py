"""ElevenLabs' text-to-dialogue over REST: several voices by turns, in one stream of speech."""

from quart import Blueprint, Response, request

from csm_trio.api.doors import House
from csm_trio.api.requests import BATCH, LIVE, read_body, start_speech
from csm_trio.api.streaming import Speech
from csm_trio.protocol.dialogue_request import parse_dialogue_request
from csm_trio.protocol.events import AddText, Flush, SpeechSettings

_ROUTE = "/v1/text-to-dialogue"


def dialogue_blueprint(house: House) -> Blueprint:
    """Return the REST routes under `/v1/text-to-dialogue`."""
    blueprint = Blueprint("dialogue", __name__)

    @blueprint.post(_ROUTE)
    async def convert() -> Response:
        """Speak the whole dialogue, then answer with all of it and its length."""
        speech, content_type = await _begin_speech(house, BATCH)
        whole = await speech.whole()
        return Response(whole.data, content_type=content_type)

    @blueprint.post(f"{_ROUTE}/stream")
    async def stream() -> Response:
        """Answer with the same bytes as they are made."""
        speech, _ = await _begin_speech(house, LIVE)
        return speech.response()

    return blueprint


async def _begin_speech(house: House, usual: SpeechSettings) -> tuple[Speech, str]:
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
    deltas: list[AddText | Flush] = []
    for line in asked.lines:
        speaker_id = voices[line.voice_id].speaker_id
        whose = SpeechSettings(speaker_id=speaker_id, voice_id=line.voice_id)
        deltas += [AddText("", line.text, whose), Flush("")]
    speech = await start_speech(house, order, deltas, chars=asked.chars)
    return speech, asked.audio_format.content_type
