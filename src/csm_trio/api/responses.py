"""Start the speech of an HTTP request, and answer it; the same for every vendor's convention.

Also the headers of every answer: request ids, cost, CORS.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from quart import Response, g, request
from werkzeug.exceptions import UnsupportedMediaType

from csm_trio.api.api_keys import ApiKey
from csm_trio.api.auth import presented_key
from csm_trio.api.speech_body import speech_response
from csm_trio.api.speech_stream import SpeechStream
from csm_trio.api.state import ServerState
from csm_trio.engine.utterance import PromptSegment
from csm_trio.errors import CrossSiteRequest, OriginRefused, SpeechError
from csm_trio.pipeline.request_history import RecordedRequest
from csm_trio.pipeline.spec import ContextSpec
from csm_trio.protocol.elevenlabs.timestamps import timestamp_style
from csm_trio.protocol.events import AddText, Audio, Flush, SpeechSettings
from csm_trio.protocol.rest import RestError, SpeechRequest
from csm_trio.telemetry import session_id
from csm_trio.voices import Voice

LIVE, BATCH = SpeechSettings(), SpeechSettings(batch=True)
"""Default priority of a request: batch for a body that is sent only when it is complete."""

SPEECH_HEADERS = (
    "history-item-id",
    "character-cost",
    "current-concurrent-requests",
    "maximum-concurrent-requests",
    "workspace-concurrent-requests",
)
_CORS = {
    "access-control-allow-methods": "DELETE, GET, OPTIONS, PATCH, POST, PUT",
    "access-control-max-age": "600",
    "access-control-expose-headers": ", ".join(
        ("request-id", "x-request-id", "x-trace-id", "x-region", "retry-after", *SPEECH_HEADERS)
    ),
}


async def read_body() -> bytes:
    """Return the body of the current request."""
    return cast(bytes, await request.get_data(as_text=False))


async def read_json_body() -> bytes:
    """Return the body of a request that changes something; it must be declared as JSON.

    A page of another origin can post every other type without asking first (the Fetch standard's
    CORS-safelisted types). Raises UnsupportedMediaType.
    """
    if request.mimetype != "application/json":
        raise UnsupportedMediaType("The body must be JSON, with content-type: application/json.")
    return await read_body()


async def start_request(
    state: ServerState,
    voice: Voice,
    parsed: SpeechRequest,
    defaults: SpeechSettings,
    *,
    aligned: bool = False,
) -> SpeechStream:
    """Admit the session and start its synthesis; the request's settings override `defaults`.

    With `aligned`, chunks carry the alignment of their characters. Raises EngineBusy at the limit
    of sessions, or the SpeechError that came instead of audio.
    """
    request_id, client = session_id.get(), _client()
    shared = state.shared
    history: tuple[PromptSegment, ...] = ()
    if parsed.previous_request_ids:
        history = await shared.segments_of(parsed.previous_request_ids, voice.voice_id)
    if parsed.previous_text is not None and not history:
        history = await shared.segments_before(parsed.previous_text, voice.voice_id, client)
    recorded = RecordedRequest.of(request_id, voice.voice_id, parsed.text, client=client)
    spec = state.context_spec(
        "",
        voice,
        parsed.audio_format,
        defaults.overridden_by(parsed.settings),
        max_audio_len_ms=state.speech.rest_max_audio_len_ms,
        aligned=aligned,
        history=history,
        never_empty=True,
        on_segment=partial(shared.record_segment, recorded) if parsed.kept else None,
    )
    text = [AddText(spec.context_id, parsed.text)]
    return await start_stream(state, spec, text, chars=len(parsed.text))


def current_key() -> ApiKey | None:
    """Return the API key of the current request; None where it needs none."""
    key: ApiKey | None = g.get("api_key")
    return key


def _client() -> str:
    """Return whose request this is: the holder's of its key, else the address's.

    A server without keys takes any text for one.
    """
    key = current_key()
    if key is not None:
        return key.client
    return presented_key(request.headers, request.args) or request.remote_addr or ""


async def start_stream(
    state: ServerState, spec: ContextSpec, deltas: Sequence[AddText | Flush], *, chars: int
) -> SpeechStream:
    """Admit the session, start its synthesis, and store the values of the answer's headers.

    Raises EngineBusy or TooManySessions at a limit of sessions, or the SpeechError that came
    instead of audio.
    """
    state.metrics.characters.inc(chars)
    stream = await SpeechStream.start(
        state.synthesizer, spec, deltas=deltas, admission=state.admission, key=current_key()
    )
    counts = map(str, (stream.counts.of_client, stream.counts.limit, stream.counts.total))
    values = (session_id.get(), str(chars), *counts)
    g.speech_headers = dict(zip(SPEECH_HEADERS, values, strict=True))
    return stream


def timestamp_response(stream: SpeechStream, write: Callable[[Audio], str]) -> Response:
    """Answer with a JSON object per chunk, one a line or one an SSE event, as they are made."""
    style = timestamp_style(
        request.headers.get("accept"), has_api_key_header="xi-api-key" in request.headers
    )
    if style == "sse":
        return speech_response(
            stream,
            "text/event-stream",
            serialize=lambda audio: f"data: {write(audio)}\n\n".encode(),
        )
    return speech_response(
        stream, "application/x-ndjson", serialize=lambda audio: f"{write(audio)}\n".encode()
    )


def error_response(state: ServerState, error: SpeechError, rendered: RestError) -> Response:
    """Answer with a rendered error, and count it."""
    state.metrics.refusals.labels(type(error).__name__).inc()
    # The refusal of a socket gets no other headers: `add_standard_headers` does not see it.
    return Response(
        json.dumps(rendered.body),
        status=rendered.status,
        headers={**rendered.headers, "x-trace-id": session_id.get()},
        content_type="application/json",
    )


def allowed_origin(origin: str | None, origins: tuple[str, ...] | None) -> str | None:
    """Return the value of `access-control-allow-origin`; None where the origin gets none."""
    if origins is None:
        return "*"
    return origin if origin in origins else None


def check_origin(origin: str | None, host: str, origins: tuple[str, ...] | None) -> None:
    """Check the page that opens a socket: browsers protect sockets by no CORS (RFC 6455, 10.2).

    Raises OriginRefused for an origin that is neither of the server's own host nor on the list.
    """
    if origin is None or origins is None or origin.lower() in origins:
        return
    if not _is_same_site(origin, host):
        raise OriginRefused


def _is_same_site(origin: str, host: str) -> bool:
    """Return whether an origin is the host itself; a proxy may have ended TLS."""
    return origin.partition("://")[2].lower() == host.lower()


def check_same_site(*, has_key: bool) -> None:
    """Check a change that a page may ask for without asking first (a form); a key is proof enough.

    Raises CrossSiteRequest where the browser names another site as the origin (RFC 6454, 7).
    """
    origin = request.headers.get("origin")
    if has_key or origin is None:
        return
    if not _is_same_site(origin, request.host):
        raise CrossSiteRequest


def _is_edit() -> bool:
    """Return whether a request changes voices, or asks whether it may (a CORS preflight)."""
    method = request.headers.get("access-control-request-method", request.method)
    return request.path.startswith("/v1/voices") and method not in ("GET", "HEAD", "OPTIONS")


def add_standard_headers(
    response: Response, *, has_key: bool, origins: tuple[str, ...] | None
) -> None:
    """Add the headers of every answer, and those of speech where there is speech.

    Pages of these origins, or of every origin, may call the server, except to change it where it
    has no key.
    """
    request_id = session_id.get()
    response.headers["request-id"] = request_id
    response.headers["x-request-id"] = request_id
    response.headers["x-trace-id"] = request_id
    if not request.path.startswith(("/v1/", "/v2/")):
        return
    response.headers["x-region"] = "self-hosted"
    if response.status_code == 200:
        response.headers.update(g.get("speech_headers", {}))
    if origins is not None:
        response.headers.add("vary", "Origin")
    allowed = allowed_origin(request.headers.get("origin"), origins)
    if allowed is None or (_is_edit() and not has_key):
        return
    response.headers.update(_CORS)
    response.headers["access-control-allow-origin"] = allowed
    # Listed one by one: to a browser `*` does not include `authorization`.
    wanted = request.headers.get("access-control-request-headers")
    response.headers["access-control-allow-headers"] = wanted or "*"
