"""`SpeechError`s in ElevenLabs' form: HTTP status and body, socket message and close code.

Shapes and names as recorded from the live API.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from csm_trio.errors import (
    BinaryMessage,
    ClientStalled,
    CrossSiteRequest,
    EngineBusy,
    EngineFailed,
    InputTimeout,
    InvalidRequest,
    MissingField,
    NotOffered,
    OriginRefused,
    ServerLeaving,
    SpeechError,
    TextTooLong,
    TooManyContexts,
    TooManyRequests,
    TooManySessions,
    TooManyVoices,
    Unauthorized,
    UnknownFormat,
    UnknownModel,
    UnknownSample,
    UnknownVoice,
    UnsupportedModel,
)
from csm_trio.protocol.rest import RestError

Entry = TypeVar("Entry")

# RFC 6455 §7.4.1 and the IANA registry of close codes.
CLOSE_GOING_AWAY = 1001
CLOSE_UNSUPPORTED_DATA = 1003
CLOSE_POLICY_VIOLATION = 1008
CLOSE_TOO_BIG = 1009
CLOSE_INTERNAL_ERROR = 1011
CLOSE_TRY_AGAIN_LATER = 1013

# RFC 6455 §5.5: a control frame holds 125 bytes, two of them the code.
MAX_REASON_BYTES = 123

_SOCKET_ERRORS: dict[type[SpeechError], tuple[str, int]] = {
    InvalidRequest: ("invalid_input_message", CLOSE_POLICY_VIOLATION),
    BinaryMessage: ("invalid_input_message", CLOSE_UNSUPPORTED_DATA),
    UnknownVoice: ("voice_id_does_not_exist", CLOSE_POLICY_VIOLATION),
    UnknownFormat: ("invalid_output_format", CLOSE_POLICY_VIOLATION),
    TextTooLong: ("max_character_limit_exceeded", CLOSE_TOO_BIG),
    TooManyContexts: ("max_active_conversations", CLOSE_POLICY_VIOLATION),
    Unauthorized: ("invalid_api_key", CLOSE_POLICY_VIOLATION),
    InputTimeout: ("input_timeout_exceeded", CLOSE_POLICY_VIOLATION),
    ClientStalled: ("listener_stalled", CLOSE_POLICY_VIOLATION),
    NotOffered: ("feature_not_available", CLOSE_POLICY_VIOLATION),
    EngineBusy: ("system_busy", CLOSE_TRY_AGAIN_LATER),
    TooManyRequests: ("rate_limit_exceeded", CLOSE_POLICY_VIOLATION),
    TooManySessions: ("too_many_concurrent_requests", CLOSE_POLICY_VIOLATION),
    ServerLeaving: ("going_away", CLOSE_GOING_AWAY),
    EngineFailed: ("internal_error", CLOSE_INTERNAL_ERROR),
    SpeechError: ("internal_error", CLOSE_INTERNAL_ERROR),
}


@dataclass(frozen=True, slots=True)
class SocketError:
    """An error on a socket: one message, then a close frame with `code` and `reason`."""

    message: str
    error: str
    code: int
    param: str | None = None

    def to_text(self) -> str:
        """Return the error message as JSON."""
        return json.dumps(self.to_message())

    def to_message(self) -> dict[str, object]:
        """Return the error message."""
        body: dict[str, object] = {
            "message": self.message,
            "error": self.error,
            "code": self.code,
        }
        if self.param is not None:
            body["param"] = self.param
        return body

    @property
    def reason(self) -> str:
        """The message, cut between characters to the length that a close frame can hold."""
        return self.message.encode("utf-8", "replace")[:MAX_REASON_BYTES].decode("utf-8", "ignore")


def socket_error(error: SpeechError) -> SocketError:
    """Return `error` in the form of the vendor's sockets."""
    name, code = _nearest(_SOCKET_ERRORS, error)
    message = error.message
    if isinstance(error, UnknownVoice):
        message = f"A voice with voice_id {error.voice_id} does not exist."
    param = error.param if isinstance(error, InvalidRequest) else None
    return SocketError(message, name, code, param)


def socket_errors() -> dict[str, int]:
    """Return the names of errors on sockets, and their close codes."""
    return dict(sorted(_SOCKET_ERRORS.values()))


@dataclass(frozen=True, slots=True)
class _RestKind:
    """An error's HTTP status and names.

    `legacy` is the body's `status` field: the older name, which clients still match.
    """

    status: int
    type: str
    code: str
    legacy: str


_INTERNAL = _RestKind(500, "internal_error", "internal_error", "internal_error")
_REST_ERRORS: dict[type[SpeechError], _RestKind] = {
    UnknownVoice: _RestKind(404, "not_found", "voice_not_found", "voice_not_found"),
    UnknownFormat: _RestKind(
        403, "validation_error", "invalid_output_format", "invalid_output_format"
    ),
    UnknownSample: _RestKind(404, "not_found", "sample_not_found", "sample_not_found"),
    CrossSiteRequest: _RestKind(403, "authorization_error", "forbidden", "forbidden"),
    OriginRefused: _RestKind(403, "authorization_error", "forbidden", "forbidden"),
    UnknownModel: _RestKind(404, "not_found", "model_not_found", "model_not_found"),
    UnsupportedModel: _RestKind(400, "validation_error", "unsupported_model", "unsupported_model"),
    TextTooLong: _RestKind(
        413, "validation_error", "text_too_long", "max_character_limit_exceeded"
    ),
    Unauthorized: _RestKind(401, "authentication_error", "unauthorized", "invalid_api_key"),
    NotOffered: _RestKind(
        403, "authorization_error", "feature_not_available", "feature_not_available"
    ),
    TooManyVoices: _RestKind(400, "validation_error", "voice_limit_reached", "voice_limit_reached"),
    EngineBusy: _RestKind(503, "service_unavailable", "system_busy", "system_busy"),
    ServerLeaving: _RestKind(503, "service_unavailable", "system_busy", "system_busy"),
    TooManyRequests: _RestKind(
        429, "rate_limit_error", "rate_limit_exceeded", "too_many_concurrent_requests"
    ),
    EngineFailed: _INTERNAL,
    SpeechError: _INTERNAL,
}


def rest_error(error: SpeechError, *, request_id: str) -> RestError:
    """Return `error` in the form of the vendor's HTTP API.

    A wrong field is answered as FastAPI does, with a list; everything else with one object.
    """
    kind = _nearest(_REST_ERRORS, error)
    if isinstance(error, InvalidRequest) and kind is _INTERNAL:
        return RestError(422, {"detail": [_field_detail(error)]})
    detail = _detail(kind, error.message, request_id)
    if isinstance(error, InvalidRequest):
        detail["param"] = error.param
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    return RestError(kind.status, {"detail": detail}, headers)


def rest_status(kind: type[SpeechError]) -> int:
    """Return the HTTP status that errors of this type are answered with."""
    entry = _entry_of(_REST_ERRORS, kind)
    return 422 if issubclass(kind, InvalidRequest) and entry is _INTERNAL else entry.status


def http_error_body(
    status: int, name: str, message: str | None, *, request_id: str
) -> dict[str, object]:
    """Return the body for an error of HTTP itself; `name` is its name, such as "Not Found"."""
    code = name.lower().replace(" ", "_")
    kind = "invalid_request" if status < 500 else "internal_error"
    return {"detail": _detail(_RestKind(status, kind, code, code), message, request_id)}


def _detail(kind: _RestKind, message: str | None, request_id: str) -> dict[str, object]:
    return {
        "type": kind.type,
        "code": kind.code,
        "message": message,
        "status": kind.legacy,
        "request_id": request_id,
    }


def _field_detail(error: InvalidRequest) -> dict[str, object]:
    # Where the body as a whole is wrong, the path names no field within it.
    field_path = [] if error.param == error.location else error.param.split(".")
    kind = "missing" if isinstance(error, MissingField) else "value_error"
    loc = [error.location, *field_path]
    return {"type": kind, "loc": loc, "msg": error.message, "input": None}


def _nearest(table: Mapping[type[SpeechError], Entry], error: SpeechError) -> Entry:
    """Return the entry of the nearest ancestor; `SpeechError` itself is in every table."""
    return _entry_of(table, type(error))


def _entry_of(table: Mapping[type[SpeechError], Entry], kind: type[SpeechError]) -> Entry:
    return next(table[ancestor] for ancestor in kind.__mro__ if ancestor in table)
