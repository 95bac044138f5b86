"""Events in, the vendor's frames out: the one place where a frame of speech is put together."""

import base64
import json
from typing import assert_never

from csm_trio.protocol.events import Audio, ContextCleared, ContextDone

Frame = dict[str, object]
Spoken = Audio | ContextDone | ContextCleared


def speech_frame(event: Spoken) -> Frame:
    """Return what a text-to-speech socket says of an event.

    All four keys always: Vocode skips whatever lacks `audio`, the last frame included.
    """
    match event:
        case Audio():
            return _speech_frame(_audio_base64(event), final=False)
        case ContextDone():
            return _speech_frame(None, final=True)
        case ContextCleared():
            return {**_speech_frame(None, final=False), "cleared": True}
        case _:
            assert_never(event)


def frame_text(frame: Frame) -> str:
    """Return a frame as JSON.

    `json.dumps` would look for escapes in every character of the audio; base64 has none.
    """
    audio = frame.get("audio")
    if not isinstance(audio, str):
        return json.dumps(frame)
    return json.dumps({**frame, "audio": None}).replace("null", f'"{audio}"', 1)


def named_frame(frame: Frame, context_id: str) -> Frame:
    """Return a frame with the context's name, and everything in both spellings that are read.

    The vendor has written `contextId` and `context_id`, `isFinal` and `is_final` at different
    times and places, and clients read one or the other. The context without a name is null.
    """
    name = context_id or None
    both = {"is_final": frame["isFinal"]} if "isFinal" in frame else {}
    return {**frame, **both, "contextId": name, "context_id": name}


def dialogue_frame(event: Spoken) -> Frame:
    """Return what a text-to-dialogue socket says of an event: the same things in snake_case."""
    match event:
        case Audio():
            return {
                "audio": _audio_base64(event),
                "alignment": None,
                "normalized_alignment": None,
            }
        case ContextDone() | ContextCleared():
            return {"is_final": True}
        case _:
            assert_never(event)


def _speech_frame(audio_base64: str | None, *, final: bool) -> Frame:
    return {
        "audio": audio_base64,
        "isFinal": final,
        "normalizedAlignment": None,
        "alignment": None,
    }


def _audio_base64(event: Audio) -> str:
    return base64.b64encode(event.data).decode("ascii")
