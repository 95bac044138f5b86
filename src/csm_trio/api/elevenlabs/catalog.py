"""ElevenLabs' endpoints beside speech: voices, models, the account, single-use tokens."""

from dataclasses import asdict

from quart import Blueprint, request

from csm_trio.api.openai import is_openai_request
from csm_trio.api.responses import current_key, read_json_body
from csm_trio.api.state import ServerState
from csm_trio.errors import InvalidRequest, NotOffered
from csm_trio.protocol import openai
from csm_trio.protocol.elevenlabs import catalog as listing
from csm_trio.protocol.elevenlabs.catalog import JsonObject, VoiceAccount
from csm_trio.protocol.rest import parse_body
from csm_trio.protocol.speech_fields import read_voice_settings
from csm_trio.protocol.voice_settings import DEFAULT_VOICE_SETTINGS
from csm_trio.voices import Voice

_VOICE = "/v1/voices/<voice_id>"


def catalog_blueprint(state: ServerState) -> Blueprint:
    """Return the endpoints of lists, voice settings and tokens, and the refused ones."""
    blueprint = Blueprint("catalog", __name__)
    _add_voices(blueprint, state)
    _add_voice_settings(blueprint, state)
    _add_account(blueprint, state)
    return blueprint


def _add_voices(blueprint: Blueprint, state: ServerState) -> None:
    def body(voice: Voice) -> JsonObject:
        return listing.voice_body(voice, state.settings_of(voice))

    @blueprint.get("/v1/voices")
    async def voices() -> JsonObject:
        """List every voice."""
        return {"voices": [body(voice) for voice in state.voices.all()]}

    @blueprint.get("/v2/voices")
    async def search_voices() -> JsonObject:
        """List the matching voices, a page at a time."""
        query = listing.parse_voices_query(request.args, request.args.getlist("voice_ids"))
        return listing.voices_page(query, [body(one) for one in query.select(state.voices.all())])

    @blueprint.get(_VOICE)
    async def voice(voice_id: str) -> JsonObject:
        """Show one voice."""
        return body(state.voices.get(voice_id))


def _add_voice_settings(blueprint: Blueprint, state: ServerState) -> None:
    @blueprint.get("/v1/voices/settings/default")
    async def default_settings() -> JsonObject:
        """Show the settings of an unedited voice."""
        return asdict(DEFAULT_VOICE_SETTINGS)

    @blueprint.get(f"{_VOICE}/settings")
    async def settings(voice_id: str) -> JsonObject:
        """Show the settings of a voice."""
        return asdict(state.settings_of(state.voices.get(voice_id)))

    @blueprint.post(f"{_VOICE}/settings/edit")
    async def edit_settings(voice_id: str) -> JsonObject:
        """Edit the defaults of a voice, for every later request."""
        changes = read_voice_settings(parse_body(await read_json_body()))
        voice = state.voices.get(voice_id)
        if voice not in state.voices.all():
            raise NotOffered("Only a listed voice can be given settings.")
        await state.shared.edit_voice(voice.voice_id, changes)
        return {"status": "ok"}


def _account(state: ServerState) -> VoiceAccount:
    voices = state.voices.all()
    listed = sum(not voice.added for voice in voices)
    upload = state.speech.voice_upload
    return VoiceAccount(
        used=len(voices),
        limit=listed + state.speech.max_voices if upload else len(voices),
        may_add=upload,
    )


def _add_account(blueprint: Blueprint, state: ServerState) -> None:
    @blueprint.get("/v1/models")
    async def models() -> list[JsonObject] | JsonObject:
        """List the models, in the form of the client's convention."""
        if is_openai_request():
            return openai.models_body()
        return listing.models_body(state.speech.max_text_chars)

    @blueprint.get("/v1/user")
    async def user() -> JsonObject:
        """Show an account without limits."""
        return listing.user_body(_account(state))

    @blueprint.get("/v1/user/subscription")
    async def subscription() -> JsonObject:
        """Show the subscription of that account."""
        return listing.subscription_body(_account(state))

    @blueprint.get("/v1/history")
    async def history() -> JsonObject:
        """List stored speech: none."""
        return listing.history_body()

    @blueprint.post("/v1/single-use-token/<purpose>")
    async def single_use_token(purpose: str) -> JsonObject:
        """Issue a token that authenticates one socket."""
        if purpose != "tts_websocket":
            raise InvalidRequest(
                "The only single-use token here is tts_websocket.",
                param="token_type",
                location="path",
            )
        key = current_key()
        return {"token": await state.shared.issue_token(b"" if key is None else key.digest)}
