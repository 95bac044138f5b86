"""Serve the descriptions: `/openapi.json`."""

import json
from functools import cache

from quart import Blueprint, Response, current_app

from csm_trio.api.openapi.document import openapi_document
from csm_trio.api.openapi.operations import operations
from csm_trio.api.state import ServerState

_HEADERS = {"cache-control": "no-cache"}


def descriptions_blueprint(state: ServerState) -> Blueprint:
    """Return the routes; each description is made at its first request, and kept."""
    blueprint = Blueprint("descriptions", __name__)

    @cache
    def openapi_text() -> str:
        rules = list(current_app.url_map.iter_rules())
        has_key = state.server.api_key is not None
        return json.dumps(openapi_document(rules, operations(state), has_key=has_key))

    @blueprint.get("/openapi.json")
    async def openapi() -> Response:
        """Describe the HTTP endpoints."""
        return Response(openapi_text(), headers=_HEADERS, content_type="application/json")

    return blueprint
