"""One HTTP request for speech, in whichever convention: from its checked values to its sound.

Also the headers of every answer, which say what it cost and let a browser's page read it.
"""

import json
from collections.abc import Callable, Sequence
from typing import cast

from quart import Response, g, request

from csm_trio.api.speech_stream import SpeechStream
from csm_trio.api.state import ServerState
from csm_trio.errors import SpeechError
from csm_trio.pipeline.spec import ContextSpec
from csm_trio.protocol.elevenlabs.timestamps import timestamp_style
from csm_trio.protocol.events import AddText, Audio, Flush, SpeechSettings
from csm_trio.protocol.rest import RestError, SpeechRequest
from csm_trio.telemetry import session_id
from csm_trio.voices import Voice

LIVE, BATCH = SpeechSettings(), SpeechSettings(batch=True)
"""What a request's priority is unless it says: nobody listens yet to a body made whole first."""

_SPEECH_HEADERS = (
    "history-item-id",
    "character-cost",
    "current-concurrent-requests",
    "maximum-concurrent-requests",
    "workspace-concurrent-requests",
)
_CORS = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "DELETE, GET, OPTIONS, PATCH, POST, PUT",
    "access-control-max-age": "600",
    "access-control-expose-headers": ", ".join(
        ("request-id", "x-request-id", "x-trace-id", "x-region", "retry-after", *_SPEECH_HEADERS)
    ),
}


async def read_body() -> bytes:
    """Return the body of the current request."""
    return cast(bytes, await request.get_data(as_text=False))


async def begin_speech(
    state: ServerState,
    voice: Voice,
    asked: SpeechRequest,
    usual: SpeechSettings,
    *,
    aligned: bool = False,
) -> tuple[SpeechStream, ContextSpec]:
    """Admit the call and start speaking; `usual` is what the request may replace.

    `aligned` says whether the answer tells which character is spoken when.

    Raises EngineBusy where the house is full, or the SpeechError that came instead of audio.
    """
    request_id = session_id.get()
    request_history = state.request_history
    history = request_history.segments_of(asked.previous_request_ids, voice.voice_id)
    if asked.previous_text is not None and not history:
        history = request_history.segments_before(asked.previous_text, voice.voice_id)
    record = request_history.recorder(request_id, voice.voice_id, asked.text)
    spec = state.spec(
        "",
        voice,
        asked.audio_format,
        usual.overridden_by(asked.settings),
        max_audio_len_ms=state.speech.rest_max_audio_len_ms,
        history=history,
        on_segment=record if asked.kept else None,
    )
    spec.aligned = aligned
    text = [AddText(spec.context_id, asked.text)]
    return await start_speech(state, spec, text, chars=len(asked.text)), spec


async def start_speech(
    state: ServerState, spec: ContextSpec, deltas: Sequence[AddText | Flush], *, chars: int
) -> SpeechStream:
    """Admit the call and start speaking; note what the answer's headers are to say of it.

    Raises EngineBusy where the house is full, or the SpeechError that came instead of audio.
    """
    state.metrics.characters.inc(chars)
    speech = await SpeechStream.begin(
        state.synthesizer, spec, deltas=deltas, admission=state.admission
    )
    inside, limit = str(state.admission.inside), str(state.admission.limit)
    values = (session_id.get(), str(chars), inside, limit, inside)
    g.speech_headers = dict(zip(_SPEECH_HEADERS, values, strict=True))
    return speech


def timestamp_response(speech: SpeechStream, write: Callable[[Audio], str]) -> Response:
    """Answer with the JSON objects that `write` makes, as speech is: one a line or an SSE event."""
    style = timestamp_style(
        request.headers.get("accept"), has_api_key_header="xi-api-key" in request.headers
    )
    if style == "sse":
        return speech.response(
            "text/event-stream", serialize=lambda audio: f"data: {write(audio)}\n\n".encode()
        )
    return speech.response(
        "application/x-ndjson", serialize=lambda audio: f"{write(audio)}\n".encode()
    )


def error_response(state: ServerState, error: SpeechError, fault: RestError) -> Response:
    """Answer an error as `fault` tells it, and count it.

    What it is signed with here is all that the refusal of a socket has.
    """
    state.metrics.refusals.labels(type(error).__name__).inc()
    return Response(
        json.dumps(fault.body),
        status=fault.status,
        headers={**fault.headers, "x-trace-id": session_id.get()},
        content_type="application/json",
    )


def add_standard_headers(response: Response) -> None:
    """Put the headers of every answer on one, and those of speech where there was some."""
    request_id = session_id.get()
    response.headers["request-id"] = request_id
    response.headers["x-request-id"] = request_id
    response.headers["x-trace-id"] = request_id
    if not request.path.startswith(("/v1/", "/v2/")):
        return
    response.headers["x-region"] = "self-hosted"
    if response.status_code == 200:
        response.headers.update(g.get("speech_headers", {}))
    response.headers.update(_CORS)
    # Named one by one: to a browser `*` does not include `authorization`.
    asked = request.headers.get("access-control-request-headers")
    response.headers["access-control-allow-headers"] = asked or "*"
