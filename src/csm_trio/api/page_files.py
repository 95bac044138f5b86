"""Files of a page that the server shows: from memory, with a policy that lets nothing else in.

Their paths hold a version, so that a browser requests each of them once: a request costs the event
loop milliseconds.
"""

import hashlib
from importlib import resources

from quart import Response

_CONTENT_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "json": "application/json",
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
"""Content-Security-Policy of a page: its own files alone, and no text that becomes markup."""

_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
FOR_EVER, EVERY_TIME = "public, max-age=31536000, immutable", "no-cache"
"""Values of Cache-Control: for a path with a version, and for any other."""


_PAGE_KINDS = ("html", "css", "js", "svg")


def read_files(package: str) -> dict[str, bytes]:
    """Return the files of a page by name, as its package has them."""
    return {
        entry.name: entry.read_bytes()
        for entry in resources.files(package).iterdir()
        if entry.name.rpartition(".")[2] in _PAGE_KINDS
    }


def version_of(files: dict[str, bytes]) -> str:
    """Return a short hash of names and contents."""
    contents = hashlib.sha256()
    for name, data in sorted(files.items()):
        contents.update(f"{name} {len(data)} ".encode() + data)
    return contents.hexdigest()[:12]


def content_type(name: str) -> str:
    """Return the content type of a file, by its name."""
    return _CONTENT_TYPES[name.rpartition(".")[2]]


def page_answer(name: str, data: bytes, cache: str) -> Response:
    """Answer with a file; its name tells its type."""
    headers = {**_HEADERS, "cache-control": cache}
    return Response(data, headers=headers, content_type=content_type(name))
