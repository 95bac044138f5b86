"""Bodies of ElevenLabs' listing endpoints: voices, models, the account; JSON values out.

The bodies satisfy the strictest client, the vendor's JavaScript SDK, which validates each answer.
Values without meaning on a self-hosted server are those of an account without limits.
"""

import base64
import binascii
import mimetypes
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from csm_trio.errors import InvalidRequest
from csm_trio.protocol.described import Field, Integer, Text
from csm_trio.protocol.fields import QueryFields
from csm_trio.protocol.voice_settings import VoiceSettings
from csm_trio.voices import Voice, VoiceClip

JsonObject = dict[str, object]

LANGUAGES = [{"language_id": "en", "name": "English"}]
DESCRIPTION = "Every model name selects the one model that this server has loaded."

ELEVENLABS_MODELS = {
    "eleven_multilingual_v2": "Eleven Multilingual v2",
    "eleven_flash_v2_5": "Eleven Flash v2.5",
    "eleven_turbo_v2_5": "Eleven Turbo v2.5",
    "eleven_flash_v2": "Eleven Flash v2",
    "eleven_turbo_v2": "Eleven Turbo v2",
    "eleven_monolingual_v1": "Eleven English v1",
    "eleven_v3": "Eleven v3",
}
"""Model names that clients default to, with display names. With `eleven_v3*` and `eleven_v4*`
clients use the text-to-dialogue sockets: list these only while those sockets exist."""

DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 10, 100
_SORTS = ("name", "created_at_unix")
_DIRECTIONS = ("asc", "desc")
_PREMADE = "premade"
# Whether a `voice_type` includes premade voices, and whether it includes all others.
_VOICE_TYPES = {
    "default": (True, False),
    "saved": (True, True),
    "personal": (False, True),
    "workspace": (False, True),
    "non-default": (False, True),
    "non-community": (True, True),
    "community": (False, False),
}
_NO_LIMIT = 2**31 - 1


def models_body(max_chars: int) -> list[JsonObject]:
    """Return `GET /v1/models`."""
    return [
        {
            "model_id": model_id,
            "name": name,
            "description": DESCRIPTION,
            "can_be_finetuned": False,
            "can_do_text_to_speech": True,
            "can_do_voice_conversion": False,
            "can_use_style": False,
            "can_use_speaker_boost": False,
            "serves_pro_voices": False,
            "requires_alpha_access": False,
            "token_cost_factor": 1.0,
            "max_characters_request_free_user": max_chars,
            "max_characters_request_subscribed_user": max_chars,
            "maximum_text_length_per_request": max_chars,
            "languages": LANGUAGES,
            "model_rates": {"character_cost_multiplier": 1.0},
            "concurrency_group": "standard",
        }
        for model_id, name in ELEVENLABS_MODELS.items()
    ]


def voice_body(voice: Voice, settings: VoiceSettings) -> JsonObject:
    """Return one voice, the body of `GET /v1/voices/{voice_id}`."""
    return {
        "voice_id": voice.voice_id,
        "name": voice.name,
        "category": voice.category,
        "description": voice.description,
        "labels": {"language": "en", **voice.labels},
        "samples": [_sample_body(clip) for clip in voice.clips] or None,
        "preview_url": None,
        "available_for_tiers": [],
        "settings": asdict(settings),
        "sharing": None,
        "high_quality_base_model_ids": list(ELEVENLABS_MODELS),
        "verified_languages": [],
        "safety_control": None,
        "voice_verification": None,
        "permission_on_resource": None,
        "is_owner": voice.added,
        "is_legacy": False,
        "is_mixed": False,
        "created_at_unix": voice.added_at_unix,
    }


def _sample_body(clip: VoiceClip) -> JsonObject:
    return {
        "sample_id": clip.sample_id,
        "file_name": clip.file_name or clip.file.name,
        "mime_type": sample_type(clip),
        "size_bytes": None,
        "hash": None,
        "transcript": clip.text,
    }


def sample_type(clip: VoiceClip) -> str:
    """Return the media type of a clip's file, by its name."""
    return mimetypes.guess_type(clip.file.name)[0] or "application/octet-stream"


@dataclass(frozen=True, slots=True)
class VoicesQuery:
    """The filters, order and page of a `GET /v2/voices` request."""

    search: str = ""
    by_name: bool = False
    descending: bool = False
    category: str | None = None
    premade: bool = True
    own: bool = True
    voice_ids: tuple[str, ...] = ()
    page_size: int = DEFAULT_PAGE_SIZE
    begin: int = 0

    def select(self, voices: Iterable[Voice]) -> list[Voice]:
        """Return the voices of every page, sorted; the catalog's order is that of creation."""
        found = [voice for voice in voices if self._matches(voice)]
        if self.by_name:
            found.sort(key=lambda voice: voice.name.casefold())
        if self.descending:
            found.reverse()
        return found

    def _matches(self, voice: Voice) -> bool:
        searched = " ".join((voice.voice_id, voice.name, voice.description or "", voice.category))
        return (
            (self.premade if voice.category == _PREMADE else self.own)
            and self.search.casefold() in searched.casefold()
            and self.category in (None, voice.category)
            and (not self.voice_ids or voice.voice_id in self.voice_ids)
        )


SEARCH = Text("search", "Part of an id, name, description or category, in any case.")
SORT = Text("sort", "Order; by default that of creation.", _SORTS, absent_if_empty=True)
SORT_DIRECTION = Text(
    "sort_direction", "Ascending or descending.", _DIRECTIONS, absent_if_empty=True
)
CATEGORY = Text("category", "Only voices of this category.", absent_if_empty=True)
VOICE_TYPE = Text("voice_type", "Which voices.", tuple(_VOICE_TYPES), absent_if_empty=True)
COLLECTION_ID = Text("collection_id", "A collection; this server has none.")
PAGE_SIZE = Integer("page_size", "Voices in one answer.", 1, MAX_PAGE_SIZE, DEFAULT_PAGE_SIZE)
NEXT_PAGE_TOKEN = Text("next_page_token", "The token of the answer before.")
VOICE_IDS = Text("voice_ids", "Only these voices: ids with commas between, or repeated.")
VOICES_QUERY: tuple[Field, ...] = (
    SEARCH, SORT, SORT_DIRECTION, CATEGORY, VOICE_TYPE, COLLECTION_ID, PAGE_SIZE, NEXT_PAGE_TOKEN,
    VOICE_IDS,
)  # fmt: skip


def parse_voices_query(query: Mapping[str, str], voice_ids: Sequence[str]) -> VoicesQuery:
    """Parse the query of `GET /v2/voices`; `voice_ids` are all values of that parameter.

    Raises `InvalidRequest` naming the parameter that is wrong; unknown ones are ignored.
    """
    fields = QueryFields(query)
    premade, own = _VOICE_TYPES[VOICE_TYPE.read(fields) or "saved"]
    if COLLECTION_ID.read(fields):
        premade = own = False  # this server has no collections
    return VoicesQuery(
        search=(SEARCH.read(fields) or "").strip(),
        by_name=SORT.read(fields) == "name",
        descending=SORT_DIRECTION.read(fields) == "desc",
        category=CATEGORY.read(fields),
        premade=premade,
        own=own,
        voice_ids=tuple(one for ids in voice_ids for one in ids.split(",") if one),
        page_size=PAGE_SIZE.read(fields) or DEFAULT_PAGE_SIZE,
        begin=_read_page_token(NEXT_PAGE_TOKEN.read(fields)),
    )


def voices_page(query: VoicesQuery, found: Sequence[JsonObject]) -> JsonObject:
    """Return `GET /v2/voices`: the requested page of `found`, the bodies of all matching voices."""
    end = query.begin + query.page_size
    more = end < len(found)
    return {
        "voices": list(found[query.begin : end]),
        "has_more": more,
        "total_count": len(found),
        "next_page_token": _page_token(end) if more else None,
    }


def _page_token(begin: int) -> str:
    return base64.urlsafe_b64encode(str(begin).encode()).decode("ascii")


def _read_page_token(token: str | None) -> int:
    if not token:
        return 0
    try:
        begin = base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode("ascii")
        if len(begin) > 9 or not begin.isdigit():
            raise ValueError
        return int(begin)
    except (binascii.Error, ValueError):
        raise InvalidRequest(
            "next_page_token was not issued by this server.",
            param="next_page_token",
            location="query",
        ) from None


@dataclass(frozen=True, slots=True)
class VoiceAccount:
    """How many voices there are and may be, and whether clients may add some."""

    used: int
    limit: int
    may_add: bool


def subscription_body(voices: VoiceAccount) -> JsonObject:
    """Return `GET /v1/user/subscription`: an account without quotas."""
    return {
        **_account(voices),
        "open_invoices": [],
        "next_invoice": None,
    }


def user_body(voices: VoiceAccount) -> JsonObject:
    """Return `GET /v1/user`."""
    return {
        "user_id": "local",
        "workspace_id": "local",
        "subscription": _account(voices),
        "is_new_user": False,
        "xi_api_key": None,
        "can_use_delayed_payment_methods": False,
        "is_onboarding_completed": True,
        "is_onboarding_checklist_completed": True,
        "first_name": None,
        "created_at": 0,
        "seat_type": "workspace_admin",
    }


def _account(voices: VoiceAccount) -> JsonObject:
    return {
        "tier": "self_hosted",
        "status": "active",
        "character_count": 0,
        "character_limit": _NO_LIMIT,
        "max_character_limit_extension": None,
        "max_credit_limit_extension": "unlimited",
        "can_extend_character_limit": False,
        "allowed_to_extend_character_limit": False,
        "next_character_count_reset_unix": None,
        "voice_slots_used": voices.used,
        "professional_voice_slots_used": 0,
        "professional_voice_slots_used_in_workspace": 0,
        "voice_limit": voices.limit,
        "max_voice_add_edits": 0,
        "voice_add_edit_counter": 0,
        "professional_voice_limit": 0,
        "can_extend_voice_limit": False,
        "can_use_instant_voice_cloning": voices.may_add,
        "can_use_professional_voice_cloning": False,
        "currency": None,
        "current_overage": {"amount": "0", "currency": "usd"},
        "billing_period": None,
        "character_refresh_period": None,
        "has_open_invoices": False,
    }


def history_body() -> JsonObject:
    """Return `GET /v1/history`: empty, since this server stores no audio."""
    return {"history": [], "has_more": False, "last_history_item_id": None}
