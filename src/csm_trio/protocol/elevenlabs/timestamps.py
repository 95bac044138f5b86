"""Bodies of the `with-timestamps` endpoints: one JSON object, or a stream of them.

The vendor streams newline-delimited JSON; generic clients read the same objects as server-sent
events.
"""

import base64
import json
from collections.abc import Sequence
from typing import Literal

from csm_trio.protocol.elevenlabs.alignment_json import Json, rest_alignment
from csm_trio.protocol.events import Audio

TimestampStyle = Literal["sse", "ndjson"]

_STYLES: dict[str, TimestampStyle] = {
    "text/event-stream": "sse",
    "application/x-ndjson": "ndjson",
    "application/json": "ndjson",
}


def timestamp_object(audio: Audio, **more: object) -> str:
    """Return one chunk as a JSON object on one line, without framing or line end."""
    return json.dumps(rest_timestamps(audio, **more))


def rest_timestamps(audio: Audio, **more: object) -> Json:
    """Return one chunk with the times of its characters; `more` are members that are added.

    Times are seconds from the start of the answer.
    """
    aligned = audio.aligned
    return {
        "audio_base64": base64.b64encode(audio.data).decode("ascii"),
        "alignment": aligned and rest_alignment(aligned.written.shifted(aligned.from_ms)),
        "normalized_alignment": (
            aligned and rest_alignment(aligned.spoken.shifted(aligned.from_ms))
        ),
        **more,
    }


def voice_segments(chunks: Sequence[Audio], voice_ids: Sequence[str]) -> list[Json]:
    """Return the time span in `chunks` of each of a dialogue's inputs, in order.

    `voice_ids` are the voices of the inputs. Indices are those of `alignment.characters` over all
    chunks, the end exclusive. An input without speech has no segment.
    """
    segments: dict[int, Json] = {}
    chars = 0
    for chunk in chunks:
        if chunk.aligned is None:
            continue
        written, from_ms = chunk.aligned.written, chunk.aligned.from_ms
        begun: Json = {
            "voice_id": voice_ids[chunk.turn],
            "start_time_seconds": from_ms / 1000,
            "character_start_index": chars,
            "dialogue_input_index": chunk.turn,
        }
        chars += len(written.chars)
        end: Json = {
            "end_time_seconds": (from_ms + written.end_ms) / 1000,
            "character_end_index": chars,
        }
        segments[chunk.turn] = segments.get(chunk.turn, begun) | end
    return list(segments.values())


def timestamp_style(accept: str | None, *, has_api_key_header: bool) -> TimestampStyle:
    """Choose by the media types in `accept`: the highest `q` wins, then the first.

    Where `accept` names neither style (`*/*` names none), a client that sent the vendor's key
    header is one of the vendor's own, which read lines of JSON; all others get events.
    """
    best: TimestampStyle | None = None
    best_quality = 0.0
    for item in (accept or "").split(","):
        media_type, *parameters = item.split(";")
        style = _STYLES.get(media_type.strip().lower())
        quality = _quality(parameters)
        if style is not None and quality > best_quality:
            best, best_quality = style, quality
    if best is not None:
        return best
    return "ndjson" if has_api_key_header else "sse"


def _quality(parameters: list[str]) -> float:
    """Return the `q` of a media range (RFC 9110 §12.4.2); 1 if absent or not a number."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return float(value)
            except ValueError:
                return 1.0
    return 1.0
