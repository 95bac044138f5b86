"""ElevenLabs' endpoints that add, edit and delete voices, and return their samples."""

from pathlib import Path

import trio
from quart import Blueprint, Response

from csm_trio.api.responses import check_same_site
from csm_trio.api.state import ServerState
from csm_trio.api.upload import UploadedFile, read_form
from csm_trio.errors import (
    InvalidRequest,
    MissingField,
    NotOffered,
    StartupError,
    TooManyRequests,
    UnknownSample,
)
from csm_trio.named_files import read_file
from csm_trio.protocol.elevenlabs.catalog import JsonObject, sample_type
from csm_trio.protocol.elevenlabs.voice_form import VoiceForm, parse_voice_form
from csm_trio.voice_store.changes import NewVoice, UploadedClip, VoiceChange
from csm_trio.voices import MAX_CLIP_BYTES, VoiceClip

_VOICE = "/v1/voices/<voice_id>"
_SAMPLE = f"{_VOICE}/samples/<sample_id>"
_MAX_UPLOADS = 2
"""Uploads that one process reads and encodes at once."""


def voice_changes_blueprint(state: ServerState) -> Blueprint:
    """Return the endpoints; those that change voices need `--allow-voice-upload`."""
    blueprint = Blueprint("voice_changes", __name__)
    _add_uploads(blueprint, state)
    _add_deletions(blueprint, state)

    @blueprint.get(f"{_SAMPLE}/audio")
    async def sample_audio(voice_id: str, sample_id: str) -> Response:
        """Return the audio of a voice's sample."""
        clip = _sample(state, voice_id, sample_id)
        try:
            data = await trio.to_thread.run_sync(_read_clip, clip.file)
        except StartupError:
            raise UnknownSample(sample_id) from None
        return Response(data, content_type=sample_type(clip))

    return blueprint


def _add_uploads(blueprint: Blueprint, state: ServerState) -> None:
    uploads = trio.CapacityLimiter(_MAX_UPLOADS)

    @blueprint.post("/v1/voices/pvc")
    async def add_professional_voice() -> JsonObject:
        raise NotOffered("Professional voices are not offered: add one by POST /v1/voices/add.")

    @blueprint.post("/v1/voices/add")
    async def add_voice() -> JsonObject:
        """Add a voice from its files and their transcripts."""
        folder = _uploads_folder(state)
        with _Upload(uploads):
            async with read_form(folder) as form:
                files = form.files.get("files", [])
                fields = parse_voice_form(form.values, files=len(files), name_required=True)
                if not files:
                    raise MissingField("files")
                added = await state.shared.add_voice(
                    NewVoice(
                        name=fields.name or "",
                        clips=_clips(files, fields),
                        description=fields.description,
                        labels=fields.labels,
                        speaker_id=fields.speaker_id,
                    )
                )
        return {
            "voice_id": added.voice_id,
            "requires_verification": False,
            "warnings": list(added.warnings),
        }

    @blueprint.post(f"{_VOICE}/edit")
    async def edit_voice(voice_id: str) -> JsonObject:
        """Change a voice's name, description and labels, or add files to it."""
        folder = _uploads_folder(state)
        state.voices.get(voice_id)
        with _Upload(uploads):
            async with read_form(folder) as form:
                files = form.files.get("files", [])
                fields = parse_voice_form(form.values, files=len(files), name_required=False)
                change = VoiceChange(
                    name=fields.name,
                    description=fields.description,
                    labels=fields.labels,
                    clips=_clips(files, fields),
                )
                await state.shared.change_voice(voice_id, change)
        return {"status": "ok"}


def _add_deletions(blueprint: Blueprint, state: ServerState) -> None:
    @blueprint.delete(_VOICE)
    async def delete_voice(voice_id: str) -> JsonObject:
        """Delete a voice; speech that is being generated in it goes on."""
        _check_may_change(state)
        await state.shared.remove_voice(voice_id)
        return {"status": "ok"}

    @blueprint.delete(_SAMPLE)
    async def delete_sample(voice_id: str, sample_id: str) -> JsonObject:
        """Delete one sample of a voice, but not its last."""
        _check_may_change(state)
        clip = _sample(state, voice_id, sample_id)
        if len(state.voices.get(voice_id).clips) == 1:
            raise InvalidRequest("The last sample of a voice stays.", param="sample_id")
        await state.shared.change_voice(voice_id, VoiceChange(without_samples=(clip.sample_id,)))
        return {"status": "ok"}


class _Upload:
    """Counts an upload while it is read and encoded; raises TooManyRequests at the limit."""

    def __init__(self, limiter: trio.CapacityLimiter) -> None:
        self._limiter = limiter

    def __enter__(self) -> None:
        try:
            self._limiter.acquire_on_behalf_of_nowait(self)
        except trio.WouldBlock:
            raise TooManyRequests("Other voices are being uploaded.") from None

    def __exit__(self, *error: object) -> None:
        self._limiter.release_on_behalf_of(self)


def _check_may_change(state: ServerState) -> None:
    if not state.speech.voice_upload:
        raise NotOffered(
            "Voices cannot be added, edited or deleted here: start the server with "
            "--data-dir and --allow-voice-upload, or use its voices file (--voices-file)."
        )
    check_same_site(has_key=state.shared.keys.required)


def _uploads_folder(state: ServerState) -> Path:
    _check_may_change(state)
    assert state.speech.data_dir is not None
    return state.speech.data_dir / "uploads"


def _clips(files: list[UploadedFile], fields: VoiceForm) -> tuple[UploadedClip, ...]:
    return tuple(
        UploadedClip(file.path, text, file.file_name)
        for file, text in zip(files, fields.transcripts, strict=True)
    )


def _sample(state: ServerState, voice_id: str, sample_id: str) -> VoiceClip:
    clip = state.voices.get(voice_id).clip(sample_id)
    if clip is None:
        raise UnknownSample(sample_id)
    return clip


def _read_clip(path: Path) -> bytes:
    return read_file(path, max_bytes=MAX_CLIP_BYTES)
