"""The bodies of the two `with-timestamps` doors: one object, and which of two framings of many.

The vendor streams newline-delimited JSON; others read the same objects as server-sent events.
"""

import base64
import json
from typing import Literal

from csm_trio.protocol.alignments import rest_alignment
from csm_trio.protocol.events import Audio

TimestampStyle = Literal["sse", "ndjson"]

_STYLES: dict[str, TimestampStyle] = {
    "text/event-stream": "sse",
    "application/x-ndjson": "ndjson",
    "application/json": "ndjson",
}


def timestamp_object(audio: Audio) -> str:
    """Return one piece of audio as a JSON object on one line, without framing or line end.

    Times count from the start of the answer.
    """
    aligned = audio.aligned
    return json.dumps(
        {
            "audio_base64": base64.b64encode(audio.data).decode("ascii"),
            "alignment": aligned and rest_alignment(aligned.written.shifted(aligned.from_ms)),
            "normalized_alignment": (
                aligned and rest_alignment(aligned.spoken.shifted(aligned.from_ms))
            ),
        }
    )


def timestamp_style(accept: str | None, *, has_api_key_header: bool) -> TimestampStyle:
    """Choose by the media types `accept` names: the highest `q` wins, then the first.

    Where it names none of ours (`*/*` names none), the caller is one of the vendor's own
    clients if it sent its key as a header: those read lines of JSON, all others get events.
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
