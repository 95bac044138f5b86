"""Read multipart forms with files: to disk as they come, within limits.

Values and files end with the block that reads them; the body's limit is the connection's too.
"""

import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Any
from urllib.parse import parse_qsl

import trio
from quart import request
from quart_trio.wrappers import TrioRequest
from werkzeug.exceptions import RequestTimeout, UnsupportedMediaType
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from csm_trio.errors import InvalidRequest

MAX_FILE_BYTES = 10 << 20
MAX_FILES = 25
MAX_UPLOAD_BYTES = MAX_FILES * MAX_FILE_BYTES + (1 << 20)
"""The body of an upload: its files and its fields."""
_MAX_PARTS = 100
_MAX_FIELDS_BYTES = 256 << 10
_TIMEOUT_S = 600.0
_UPLOAD_PATHS = re.compile(r"/v1/voices/(?:add|[^/]+/edit)")


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file of a form on disk, and the client's name of it."""

    path: Path
    file_name: str


@dataclass(slots=True)
class Form:
    """The values and files of a form by field name, in the order in which they came."""

    values: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, list[UploadedFile]] = field(default_factory=dict)

    @property
    def n_files(self) -> int:
        """How many files there are."""
        return sum(map(len, self.files.values()))


class FormRequest(TrioRequest):
    """A request whose body may be as long as its path allows."""

    def __init__(
        self,
        method: str,
        scheme: str,
        path: str,
        *args: Any,
        max_content_length: int | None = None,
        **settings: Any,
    ) -> None:
        if takes_uploads(path):
            max_content_length = MAX_UPLOAD_BYTES
        super().__init__(
            method, scheme, path, *args, max_content_length=max_content_length, **settings
        )


def takes_uploads(path: str) -> bool:
    """Return whether requests to this path may hold files."""
    return _UPLOAD_PATHS.fullmatch(path) is not None


@asynccontextmanager
async def read_form(folder: Path) -> AsyncIterator[Form]:
    """Read the form of the current request, with its files in a new folder below `folder`.

    Raises UnsupportedMediaType, RequestTimeout, RequestEntityTooLarge, and InvalidRequest for a
    form that is malformed or over a limit.
    """
    if request.mimetype == "application/x-www-form-urlencoded":
        yield await _read_fields()
        return
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType("The body must be a form: multipart/form-data.")
    boundary = request.mimetype_params.get("boundary", "")
    if not boundary.isascii() or not 0 < len(boundary) <= 200:
        raise _malformed()
    uploads = folder / secrets.token_hex(8)
    await trio.to_thread.run_sync(uploads.mkdir)
    try:
        with trio.move_on_after(_TIMEOUT_S) as timeout:
            form = await _read(_FormReader(boundary.encode(), uploads))
        if timeout.cancelled_caught:
            raise RequestTimeout
        yield form
    finally:
        # A few files; a hang-up must not leave them.
        rmtree(uploads, ignore_errors=True)


async def _read_fields() -> Form:
    """Read a form without files, as `curl -d` sends it."""
    body = b""
    async for data in request.body:
        body += data
        if len(body) > _MAX_FIELDS_BYTES:
            raise _too_long()
    form = Form()
    for name, text in parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True):
        form.values.setdefault(name, []).append(text)
    return form


async def _read(reader: "_FormReader") -> Form:
    try:
        async for data in request.body:
            await reader.feed(data)
        await reader.feed(None)
    except ValueError:
        raise _malformed() from None
    finally:
        reader.close()
    if not reader.complete:
        raise _malformed()
    return reader.form


class _FormReader:
    """Takes a body's bytes; raises ValueError where they are no form."""

    def __init__(self, boundary: bytes, folder: Path) -> None:
        self.form = Form()
        self.complete = False
        self._decoder = MultipartDecoder(boundary, MAX_UPLOAD_BYTES, max_parts=_MAX_PARTS)
        self._folder = folder
        self._part: Field | File | None = None
        self._value = b""
        self._fields_bytes = 0
        self._file: Any = None
        self._file_bytes = 0

    def close(self) -> None:
        """Close the file that is being written."""
        if self._file is not None:
            self._file.close()

    async def feed(self, data: bytes | None) -> None:
        """Take the next bytes; None at the end."""
        self._decoder.receive_data(data)
        while not isinstance(event := self._decoder.next_event(), NeedData):
            if isinstance(event, Epilogue):
                self.complete = True
                return
            if isinstance(event, Field | File):
                self._begin(event)
            elif isinstance(event, Data):
                await self._add(event)

    def _begin(self, part: Field | File) -> None:
        self._part, self._value, self._file_bytes = part, b"", 0
        if isinstance(part, File):
            if self.form.n_files >= MAX_FILES:
                raise InvalidRequest(f"A request has at most {MAX_FILES} files.", param="files")
            path = self._folder / str(self.form.n_files)
            self._file = path.open("wb")
            name = Path((part.filename or "").replace("\\", "/")).name[:200]
            uploaded = UploadedFile(path, name)
            self.form.files.setdefault(_field_name(part), []).append(uploaded)

    async def _add(self, event: Data) -> None:
        if isinstance(self._part, File):
            self._file_bytes += len(event.data)
            if self._file_bytes > MAX_FILE_BYTES:
                raise InvalidRequest(
                    f"A file has at most {MAX_FILE_BYTES >> 20} MB.", param="files"
                )
            await trio.to_thread.run_sync(self._file.write, bytes(event.data))
            if not event.more_data:
                self._file.close()
        elif self._part is not None:
            self._value += event.data
            self._fields_bytes += len(event.data)
            if self._fields_bytes > _MAX_FIELDS_BYTES:
                raise _too_long()
            if not event.more_data:
                text = self._value.decode("utf-8", "replace")
                self.form.values.setdefault(_field_name(self._part), []).append(text)


def _field_name(part: Field | File) -> str:
    # The decoder returns None for a part without a name.
    return (part.name or "").removesuffix("[]")


def _too_long() -> InvalidRequest:
    return InvalidRequest("The form's fields are too long.", param="body")


def _malformed() -> InvalidRequest:
    return InvalidRequest("The body is no complete multipart form.", param="body")
