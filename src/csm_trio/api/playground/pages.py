"""Serve the playground: `GET /` and its files under `/playground/`, from memory.

The page needs no key: it asks for the server's, and keeps it in its own memory. Its files' paths
hold a version, so that a browser requests each of them once: a request costs the event loop
milliseconds.
"""

import hashlib
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
}
_FOR_EVER, _EVERY_TIME = "public, max-age=31536000, immutable", "no-cache"


def playground_blueprint() -> Blueprint:
    """Return the routes of the page; its files are read once, here."""
    blueprint = Blueprint("playground", __name__)
    files = read_files()
    version = version_of(files)
    html = files.pop("index.html").replace(b'"playground/', f'"playground/{version}/'.encode())

    @blueprint.get("/")
    async def page() -> Response:
        """Show the playground."""
        return _answer("index.html", html, _EVERY_TIME)

    @blueprint.get("/playground/<asked>/<name>")
    async def file(asked: str, name: str) -> Response:
        """Answer with one file; a page of another version gets this server's."""
        if name not in files:
            raise NotFound
        return _answer(name, files[name], _FOR_EVER if asked == version else _EVERY_TIME)

    return blueprint


def read_files() -> dict[str, bytes]:
    """Return the page's files by name, as the package has them."""
    folder = resources.files("csm_trio.api.playground")
    return {
        entry.name: entry.read_bytes()
        for entry in folder.iterdir()
        if entry.name.rpartition(".")[2] in _CONTENT_TYPES
    }


def version_of(files: dict[str, bytes]) -> str:
    """Return a short hash of names and contents."""
    contents = hashlib.sha256()
    for name, data in sorted(files.items()):
        contents.update(f"{name} {len(data)} ".encode() + data)
    return contents.hexdigest()[:12]


def _answer(name: str, data: bytes, cache: str) -> Response:
    content_type = _CONTENT_TYPES[name.rpartition(".")[2]]
    return Response(data, headers={**_HEADERS, "cache-control": cache}, content_type=content_type)
