"""Serve the playground: `GET /` and its files under `/playground/`, from memory.

The page needs no key: it asks for the server's, and keeps it in its own memory.
"""

from importlib import resources

from quart import Blueprint, Response
from werkzeug.exceptions import NotFound

_CONTENT_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

# `self` of connect-src includes ws: and wss: of the same host (CSP level 3, section 6.7.2.8).
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
"""Content-Security-Policy of the page: its own files alone, and no text that becomes markup."""

_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


def playground_blueprint() -> Blueprint:
    """Return the routes of the page; its files are read once, here."""
    blueprint = Blueprint("playground", __name__)
    files = read_files()

    @blueprint.get("/")
    async def page() -> Response:
        """Show the playground."""
        return _answer("index.html", files["index.html"])

    @blueprint.get("/playground/<name>")
    async def file(name: str) -> Response:
        """Answer with one file of the page."""
        if name not in files:
            raise NotFound
        return _answer(name, files[name])

    return blueprint


def read_files() -> dict[str, bytes]:
    """Return the page's files by name, as the package has them."""
    folder = resources.files(__package__ or __name__)
    return {
        entry.name: entry.read_bytes()
        for entry in folder.iterdir()
        if entry.name.rpartition(".")[2] in _CONTENT_TYPES
    }


def _answer(name: str, data: bytes) -> Response:
    content_type = _CONTENT_TYPES[name.rpartition(".")[2]]
    return Response(data, headers=_HEADERS, content_type=content_type)
