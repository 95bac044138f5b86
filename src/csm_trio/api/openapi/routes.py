"""Serve the descriptions and the page that shows them; they need no key."""

import json
from dataclasses import dataclass
from functools import cache

import trio
from quart import Blueprint, Quart, Response, current_app
from werkzeug.exceptions import NotFound

from csm_trio.api.openapi.asyncapi import asyncapi_document
from csm_trio.api.openapi.document import openapi_document
from csm_trio.api.openapi.operations import operations, sockets
from csm_trio.api.openapi.page import docs_page
from csm_trio.api.page_files import EVERY_TIME, FOR_EVER, page_answer, read_files, version_of
from csm_trio.api.state import ServerState


@dataclass(frozen=True, slots=True)
class _Descriptions:
    """The descriptions as they are sent."""

    openapi: bytes
    asyncapi: bytes
    page: bytes


def descriptions_blueprint(state: ServerState) -> Blueprint:
    """Return `/openapi.json`, `/asyncapi.json`, and `/docs` with its files.

    They are made at the first request for one of them.
    """
    blueprint = Blueprint("descriptions", __name__)
    files = read_files("csm_trio.api.openapi")
    version = version_of(files)

    @cache
    def render(app: Quart) -> _Descriptions:
        return _render(app, state, version)

    async def descriptions() -> _Descriptions:
        # The first time takes a tenth of a second, for which no call may wait.
        app = current_app._get_current_object()  # type: ignore[attr-defined]
        return await trio.to_thread.run_sync(render, app)

    @blueprint.get("/openapi.json")
    async def openapi() -> Response:
        """Describe the HTTP endpoints."""
        return page_answer("openapi.json", (await descriptions()).openapi, EVERY_TIME)

    @blueprint.get("/asyncapi.json")
    async def asyncapi() -> Response:
        """Describe the sockets."""
        return page_answer("asyncapi.json", (await descriptions()).asyncapi, EVERY_TIME)

    @blueprint.get("/docs")
    async def docs() -> Response:
        """Show the descriptions."""
        return page_answer("docs.html", (await descriptions()).page, EVERY_TIME)

    @blueprint.get("/docs/<asked>/<name>")
    async def docs_file(asked: str, name: str) -> Response:
        """Answer with one file of the page."""
        if name not in files:
            raise NotFound
        return page_answer(name, files[name], FOR_EVER if asked == version else EVERY_TIME)

    return blueprint


def _render(app: Quart, state: ServerState, version: str) -> _Descriptions:
    rules = list(app.url_map.iter_rules())
    summaries = {
        name: " ".join((view.__doc__ or name).split("\n\n")[0].split())
        for name, view in app.view_functions.items()
    }
    has_key = state.shared.keys.required
    openapi = openapi_document(rules, operations(state), summaries, has_key=has_key)
    asyncapi = asyncapi_document(rules, sockets(), summaries)
    page = docs_page(openapi, asyncapi, version=version)
    return _Descriptions(json.dumps(openapi).encode(), json.dumps(asyncapi).encode(), page.encode())
