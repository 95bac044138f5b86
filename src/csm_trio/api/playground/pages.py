"""Serve the playground: `GET /` and its files under `/playground/`, from memory.

The page needs no key: it asks for the server's, and keeps it in its own memory.
"""

from quart import Blueprint, Response
from werkzeug.exceptions import NotFound

from csm_trio.api.page_files import EVERY_TIME, FOR_EVER, page_answer, read_files, version_of


def playground_blueprint() -> Blueprint:
    """Return the routes of the page; its files are read once, here."""
    blueprint = Blueprint("playground", __name__)
    files = read_files("csm_trio.api.playground")
    version = version_of(files)
    html = files.pop("index.html").replace(b'"playground/', f'"playground/{version}/'.encode())

    @blueprint.get("/")
    async def page() -> Response:
        """Show the playground."""
        return page_answer("index.html", html, EVERY_TIME)

    @blueprint.get("/playground/<asked>/<name>")
    async def file(asked: str, name: str) -> Response:
        """Answer with one file; a page of another version gets this server's."""
        if name not in files:
            raise NotFound
        return page_answer(name, files[name], FOR_EVER if asked == version else EVERY_TIME)

    return blueprint
