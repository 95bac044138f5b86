"""What one HTTP operation takes and answers, before it is written as OpenAPI."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from csm_trio.errors import SpeechError
from csm_trio.protocol.described import Field, Schema

FORM, LINK_FORM = "multipart/form-data", "application/x-www-form-urlencoded"
ErrorForm = Literal["elevenlabs", "openai", "by header"]
"""The form of errors; by header: ElevenLabs' where the request has an `xi-api-key` header."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A good answer: its schema by media type."""

    about: str
    content: Mapping[str, Schema]
    status: int = 200
    speech: bool = False
    """Whether it has the headers of speech."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    tag: the group that it is listed in. body: the fields of its body, of type `body_type`.
    errors: the errors of speech that it can raise, besides a wrong key. http_errors: statuses of
    HTTP itself, besides those of every operation. keyless: it needs no key.
    """

    tag: str
    answers: tuple[Answer, ...]
    query: tuple[Field, ...] = ()
    body: tuple[Field, ...] = ()
    body_type: str = "application/json"
    body_required: bool = True
    errors: tuple[type[SpeechError], ...] = ()
    http_errors: tuple[int, ...] = ()
    error_form: ErrorForm = "elevenlabs"
    keyless: bool = False
    example: Mapping[str, object] | None = None
    path_values: Mapping[str, tuple[str, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Socket:
    """What a socket takes and sends: the fields of its query and of a message of its client, and
    the schemas of its own messages by name.
    """

    query: tuple[Field, ...]
    message: tuple[Field, ...]
    answers: Mapping[str, Schema]


def json_answer(about: str, schema: Schema, *, status: int = 200) -> Answer:
    """Return an answer in JSON."""
    return Answer(about, {"application/json": schema}, status)
