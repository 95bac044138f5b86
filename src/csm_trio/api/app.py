"""The application: every door, the key check, body limits, and errors as answers."""

import logging
import secrets

from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from csm_trio.api.doors import House, presented_key
from csm_trio.api.elevenlabs import elevenlabs_blueprint, fault_response
from csm_trio.api.ops import ops_blueprint
from csm_trio.api.streaming import SpeechConnection, SpeechSocketConnection, body_has_ended
from csm_trio.errors import SpeechError, Unauthorized
from csm_trio.telemetry import session_id

logger = logging.getLogger(__name__)


UNREAD_BODY_S = 2.0


class SpeechApp(QuartTrio):
    """Quart on Trio, with request nurseries that speech can live in."""

    asgi_http_class = SpeechConnection
    asgi_websocket_class = SpeechSocketConnection


def create_app(house: House) -> SpeechApp:
    """Return the ASGI application of one server."""
    app = SpeechApp("csm_trio", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = house.server.max_body_bytes
    app.register_blueprint(ops_blueprint(house))
    app.register_blueprint(elevenlabs_blueprint(house))

    @app.before_request
    async def name_request() -> None:
        session_id.set(secrets.token_hex(8))
        if request.path.startswith("/v1/") and house.server.api_key is not None:
            key = presented_key(request.headers, request.args)
            if key is None or not house.accepts(key):
                raise Unauthorized

    @app.before_websocket
    async def name_session() -> None:
        session_id.set(secrets.token_hex(8))

    @app.after_request
    async def sign(response: Response) -> Response:
        response.headers["request-id"] = session_id.get()
        # Refused unread: what is left of the body would stand before the next request.
        if not await body_has_ended(within_s=UNREAD_BODY_S):
            response.headers["connection"] = "close"
        return response

    @app.errorhandler(SpeechError)
    async def refuse(error: SpeechError) -> Response:
        return fault_response(house, error)

    @app.errorhandler(HTTPException)
    async def refuse_http(
        error: HTTPException,
    ) -> tuple[dict[str, object], int, list[tuple[str, str]]]:
        name = error.name.lower().replace(" ", "_")
        detail = {
            "type": "invalid_request" if (error.code or 500) < 500 else "internal_error",
            "code": name,
            "status": name,
            "message": error.description,
            "request_id": session_id.get(),
        }
        kept = [(name, text) for name, text in error.get_headers() if name != "Content-Type"]
        return {"detail": detail}, error.code or 500, kept

    return app
