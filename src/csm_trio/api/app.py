"""The application: every endpoint, the key check, body limits, and errors as answers."""

import json
import logging
import secrets
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any, cast

from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope, Scope
from quart import Response, g, request, websocket
from quart_trio import QuartTrio
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException

from csm_trio.api.asgi import SpeechConnection, body_has_ended
from csm_trio.api.auth import check_request, note_key
from csm_trio.api.elevenlabs.catalog import catalog_blueprint
from csm_trio.api.elevenlabs.dialogue import dialogue_blueprint
from csm_trio.api.elevenlabs.speech import elevenlabs_blueprint, elevenlabs_error_response
from csm_trio.api.elevenlabs.voice_changes import voice_changes_blueprint
from csm_trio.api.elevenlabs.websockets import websockets_blueprint
from csm_trio.api.openai import is_openai_request, openai_blueprint
from csm_trio.api.openapi.routes import descriptions_blueprint
from csm_trio.api.ops import OPS_PATHS, ops_blueprint
from csm_trio.api.playground.pages import playground_blueprint
from csm_trio.api.responses import add_standard_headers, error_response
from csm_trio.api.state import ServerState
from csm_trio.api.upload import MAX_UPLOAD_BYTES, FormRequest, takes_uploads
from csm_trio.errors import SpeechError
from csm_trio.protocol.elevenlabs.errors import http_error_body
from csm_trio.protocol.openai import error_body, openai_error
from csm_trio.telemetry import TraceParent, key_name, session_id, trace_parent

logger = logging.getLogger(__name__)


_NO_PATH = "/."
"""A path that no route has."""

UNREAD_BODY_S = 2.0
"""Seconds that a refused request may take to send the rest of its body."""


class SpeechApp(QuartTrio):
    """Quart on Trio, with request nurseries that speech lives in."""

    asgi_http_class = SpeechConnection
    request_class = FormRequest

    def __init__(
        self, *args: Any, prefix: str, body_limit: Callable[[str], int], **settings: Any
    ) -> None:
        super().__init__(*args, **settings)
        self._prefix = prefix
        self._body_limit = body_limit

    def body_limit(self, path: str) -> int:
        """Return the most bytes that the body of a request to this path may have."""
        return self._body_limit(below_prefix(path, self._prefix))

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Serve a request or a socket; below the prefix, paths are those of the endpoints."""
        if scope["type"] != "lifespan" and self._prefix:
            if scope["path"] == self._prefix and scope["type"] == "http":
                await _add_slash(scope, send)
                return
            if scope["path"].startswith(f"{self._prefix}/"):
                scope = cast(Scope, {**scope, "root_path": self._prefix})  # Quart removes it
            else:
                scope = cast(Scope, {**scope, "path": below_prefix(scope["path"], self._prefix)})
        await super().__call__(scope, receive, send)


def below_prefix(path: str, prefix: str) -> str:
    """Return the endpoint's path of a request's path; outside of the prefix, one that none has.

    Endpoints for operators answer at their own paths, too: probes do not come through the proxy.
    """
    if path.startswith(f"{prefix}/"):
        return path[len(prefix) :]
    return path if not prefix or path in OPS_PATHS else _NO_PATH


async def _add_slash(scope: HTTPScope, send: ASGISendCallable) -> None:
    """Redirect to the page below the prefix, whose files are named relative to it."""
    query = scope["query_string"]
    location = scope["path"].encode() + b"/" + (b"?" + query if query else b"")
    headers = [(b"location", location), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 308, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def create_app(state: ServerState) -> SpeechApp:
    """Return the ASGI application of one server."""
    app = SpeechApp(
        "csm_trio",
        static_folder=None,
        prefix=state.server.path_prefix or "",
        body_limit=partial(_body_limit, state),
    )
    app.config["MAX_CONTENT_LENGTH"] = state.server.max_body_bytes
    app.register_blueprint(ops_blueprint(state))
    app.register_blueprint(elevenlabs_blueprint(state))
    app.register_blueprint(catalog_blueprint(state))
    app.register_blueprint(voice_changes_blueprint(state))
    app.register_blueprint(openai_blueprint(state))
    app.register_blueprint(dialogue_blueprint(state))
    app.register_blueprint(websockets_blueprint(state))
    app.register_blueprint(descriptions_blueprint(state))
    if state.server.playground:
        app.register_blueprint(playground_blueprint())

    @app.before_request
    async def begin_request() -> None:
        _begin(request.headers)
        g.api_key = check_request(
            request.method,
            request.path,
            request.headers,
            request.args,
            keys=state.shared.keys,
        )
        note_key(g.api_key)

    @app.before_websocket
    async def begin_socket() -> None:
        _begin(websocket.headers)

    @app.after_request
    async def finish(response: Response) -> Response:
        add_standard_headers(
            response,
            has_key=state.shared.keys.required,
            origins=state.server.cors_origins,
        )
        # The unread rest of a refused request's body would be parsed as the next request.
        if not await body_has_ended(within_s=UNREAD_BODY_S):
            response.headers["connection"] = "close"
        return response

    @app.errorhandler(SpeechError)
    async def refuse(error: SpeechError) -> Response:
        if is_openai_request():
            return error_response(state, error, openai_error(error))
        return elevenlabs_error_response(state, error)

    @app.errorhandler(HTTPException)
    async def refuse_http(
        error: HTTPException,
    ) -> tuple[dict[str, object], int, list[tuple[str, str]]]:
        status = error.code or 500
        headers = [(name, text) for name, text in error.get_headers() if name != "Content-Type"]
        if is_openai_request():
            kind = "invalid_request_error" if status < 500 else "server_error"
            return error_body(error.description or error.name, kind), status, headers
        body = http_error_body(status, error.name, error.description, request_id=session_id.get())
        return body, status, headers

    return app


def _begin(headers: Headers) -> None:
    """Give the request of this task its id, and note its caller's span.

    A request with several `traceparent` headers has none (W3C Trace Context, 3.2.2).
    """
    session_id.set(secrets.token_hex(8))
    key_name.set("")
    parents = headers.getlist("traceparent")
    states = ",".join(headers.getlist("tracestate"))
    trace_parent.set(TraceParent(parents[0], states) if len(parents) == 1 else None)


def _body_limit(state: ServerState, path: str) -> int:
    """Return the most bytes that the body of a request to this path may have."""
    if state.speech.voice_upload and takes_uploads(path):
        return MAX_UPLOAD_BYTES
    return state.server.max_body_bytes


def connection_error_body(status: int) -> bytes:
    """Return the JSON body of an error that a connection answers before there is a request."""
    name = HTTPStatus(status).phrase
    body = http_error_body(status, name, name, request_id=secrets.token_hex(8))
    return json.dumps(body).encode()
