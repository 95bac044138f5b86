"""Events in, the vendor's frames out: the one place where a frame of speech is put together."""

import base64
import json
from typing import assert_never

from csm_trio.protocol.elevenlabs.alignment_json import dialogue_alignment, socket_alignment
from csm_trio.protocol.events import Audio, ContextCleared, ContextDone, TurnDone

Frame = dict[str, object]
Spoken = Audio | TurnDone | ContextDone | ContextCleared


def speech_frame(event: Spoken, *, from_start: bool = False) -> Frame:
    """Return what a text-to-speech socket says of an event.

    All four keys always: Vocode skips whatever lacks `audio`, the last frame included. Times count
    from where the frame before with an alignment ended, as clients like Pipecat add them up; or
    `from_start` of the context, as LiveKit reads them.
    """
    match event:
        case Audio(aligned=aligned):
            frame = _speech_frame(_audio_base64(event), final=False)
            if aligned is not None:
                by_ms = aligned.from_ms if from_start else 0
                frame["normalizedAlignment"] = socket_alignment(aligned.spoken.shifted(by_ms))
                frame["alignment"] = socket_alignment(aligned.written.shifted(by_ms))
            return frame
        case ContextDone():
            return _speech_frame(None, final=True)
        case ContextCleared():
            return {**_speech_frame(None, final=False), "cleared": True}
        case TurnDone():
            raise AssertionError("only dialogues have turns")
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
    """Return what a text-to-dialogue socket says of an event: the same things in snake_case.

    Characters start as late in their message as they are heard in it, as LiveKit reads them. The
    last one's duration makes up for messages before it that had none: so spans add up to the
    audio's length, as Pipecat reads them. A turn's end is a message of its own, as recorded from
    the vendor: some clients look for audio first and for nothing after it.
    """
    match event:
        case Audio(aligned=aligned):
            frame: Frame = {
                "audio": _audio_base64(event),
                "alignment": None,
                "normalized_alignment": None,
            }
            if aligned is not None:
                late_ms = aligned.late_ms
                frame["alignment"] = dialogue_alignment(aligned.written.since(late_ms))
                frame["normalized_alignment"] = dialogue_alignment(aligned.spoken.since(late_ms))
            return frame
        case TurnDone():
            return {"is_final_audio_for_turn": True}
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
