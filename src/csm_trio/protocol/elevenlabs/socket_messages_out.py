"""Events in, the vendor's socket messages out: the one place where a message is put together."""

import json
from binascii import b2a_base64
from json.encoder import encode_basestring_ascii
from typing import assert_never

from csm_trio.protocol.elevenlabs.alignment_json import (
    JsonText,
    dialogue_alignment,
    socket_alignment,
)
from csm_trio.protocol.events import Audio, ContextCleared, ContextDone, TurnDone

Message = dict[str, object]
SpeechEvent = Audio | TurnDone | ContextDone | ContextCleared


def speech_message(event: SpeechEvent, *, from_start: bool = False) -> Message:
    """Return the message of a text-to-speech socket for an event.

    Times count from the end of the last message that had an alignment, as clients like Pipecat
    add them up; or `from_start` of the context, as LiveKit reads them.
    """
    match event:
        case Audio(aligned=aligned):
            message = _speech_message(_audio_base64(event), final=False)
            if aligned is not None:
                by_ms = aligned.from_ms if from_start else 0
                written = socket_alignment(aligned.written.shifted(by_ms))
                message["normalizedAlignment"] = message["alignment"] = written
                if aligned.spoken is not aligned.written:
                    spoken = socket_alignment(aligned.spoken.shifted(by_ms))
                    message["normalizedAlignment"] = spoken
            return message
        case ContextDone():
            return _speech_message(None, final=True)
        case ContextCleared():
            return {**_speech_message(None, final=False), "cleared": True}
        case TurnDone():
            raise AssertionError("only dialogues have turns")
        case _:
            assert_never(event)


def message_text(message: Message) -> str:
    """Return a message as JSON."""
    members = [f'"{name}": {_member(name, value)}' for name, value in message.items()]
    return f"{{{', '.join(members)}}}"


def _member(name: str, value: object) -> str:
    """Return the JSON of a member's value, without `json.dumps` for those of every chunk."""
    if value is None:
        return "null"
    if isinstance(value, JsonText):
        return value
    if isinstance(value, str):
        # Base64 has no escapes to look for.
        return f'"{value}"' if name == "audio" else encode_basestring_ascii(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value)


def named_message(message: Message, context_id: str) -> Message:
    """Return a message with the context's name, each key in both spellings that clients read.

    The vendor has written `contextId` and `context_id`, `isFinal` and `is_final` at different
    times and places, and clients read one or the other. The name of the unnamed context is null.
    """
    name = context_id or None
    both = {"is_final": message["isFinal"]} if "isFinal" in message else {}
    return {**message, **both, "contextId": name, "context_id": name}


def dialogue_message(event: SpeechEvent) -> Message:
    """Return the message of a text-to-dialogue socket for an event; its keys are snake_case.

    A character's start is its offset in the message's own audio, as LiveKit reads it. The last
    duration includes earlier messages without characters, so that durations add up to the audio's
    length, as Pipecat reads them.
    """
    match event:
        case Audio(aligned=aligned):
            message: Message = {
                "audio": _audio_base64(event),
                "alignment": None,
                "normalized_alignment": None,
            }
            if aligned is not None:
                late_ms = aligned.late_ms
                written = dialogue_alignment(aligned.written.since(late_ms))
                message["alignment"] = message["normalized_alignment"] = written
                if aligned.spoken is not aligned.written:
                    spoken = dialogue_alignment(aligned.spoken.since(late_ms))
                    message["normalized_alignment"] = spoken
            return message
        case TurnDone():
            # A message of its own, as recorded from the vendor: some clients read nothing else
            # of a message that has audio.
            return {"is_final_audio_for_turn": True}
        case ContextDone() | ContextCleared():
            return {"is_final": True}
        case _:
            assert_never(event)


def _speech_message(audio_base64: str | None, *, final: bool) -> Message:
    # All four keys always: Vocode skips a message that lacks `audio`, the final one included.
    return {
        "audio": audio_base64,
        "isFinal": final,
        "normalizedAlignment": None,
        "alignment": None,
    }


def _audio_base64(event: Audio) -> str:
    return b2a_base64(event.data, newline=False).decode("ascii")
