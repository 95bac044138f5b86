"""Errors that a client can be shown, and errors of startup.

Knows no HTTP and no WebSocket: `protocol` renders a `SpeechError` in each vendor's form.
"""

from typing import Literal


class SpeechError(Exception):
    """An error that ends a client's speech; `message` is a sentence to show to the client.

    `retry_after_s` is when the client may try again; None where that would not help.
    """

    retry_after_s: int | None = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    # Errors cross processes. Python would call the class with `args`, which are not its arguments.
    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[SpeechError], args: tuple[object, ...], state: object) -> SpeechError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)  # type: ignore[call-overload]
    return error


class InvalidRequest(SpeechError):
    """The request or message is invalid; `param` names the field that is wrong.

    `location` is the part of the request that holds the field.
    """

    def __init__(
        self, message: str, *, param: str, location: Literal["body", "path", "query"] = "body"
    ) -> None:
        super().__init__(message)
        self.param = param
        self.location = location


class MissingField(InvalidRequest):
    """A required field of the request is absent."""

    def __init__(self, param: str) -> None:
        super().__init__("Field required", param=param)


class InvalidMessage(InvalidRequest):
    """A socket message is no JSON object, or does not follow the protocol's schema."""

    def __init__(
        self,
        message: str = "Could not parse input message, make sure it is a json and follows the "
        "schema outlined in protocol.",
        *,
        param: str = "message",
    ) -> None:
        super().__init__(message, param=param)


class BinaryMessage(InvalidMessage):
    """A socket message is binary, where the protocol has text only."""


class UnknownVoice(InvalidRequest):
    """No voice has this id."""

    def __init__(self, voice_id: str) -> None:
        super().__init__(f"A voice with voice_id '{voice_id}' was not found.", param="voice_id")
        self.voice_id = voice_id


class UnknownSample(InvalidRequest):
    """A voice has no sample of this id."""

    def __init__(self, sample_id: str) -> None:
        super().__init__(f"A sample with id '{sample_id}' was not found.", param="sample_id")


class CrossSiteRequest(SpeechError):
    """A page of another site asks for a change, of a server that knows its clients by no key."""

    def __init__(self) -> None:
        super().__init__("Pages of other sites may change nothing on a server without a key.")


class UnknownFormat(InvalidRequest):
    """No output format has this name."""

    def __init__(self, name: str, known: tuple[str, ...], *, param: str = "output_format") -> None:
        super().__init__(
            f"{param} '{name}' is not known; use one of: {', '.join(known)}.", param=param
        )


class UnsupportedModel(InvalidRequest):
    """The query of a text-to-speech socket names a model of the dialogue sockets."""

    def __init__(self, model_id: str) -> None:
        super().__init__(
            f"Model '{model_id}' is not supported on the text-to-speech websocket endpoint. "
            "Use the text-to-dialogue websocket endpoint instead.",
            param="model_id",
            location="query",
        )


class TooManyContexts(SpeechError):
    """A socket has too many contexts open or still ending."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"Maximum simultaneous contexts per WebSocket connection exceeded ({limit}). Please "
            "close an existing context before opening a new one."
        )


class TextTooLong(InvalidRequest):
    """The text is longer than one request, or one context's backlog, may be."""

    def __init__(self, limit_chars: int, *, param: str = "text") -> None:
        super().__init__(f"The text is longer than {limit_chars} characters.", param=param)
        self.limit_chars = limit_chars


class UnknownModel(InvalidRequest):
    """No model is listed under this name."""

    def __init__(self, model_id: str) -> None:
        super().__init__(f"The model '{model_id}' does not exist.", param="model")


class TooManyVoices(SpeechError):
    """The server keeps as many added voices as it may."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"This server keeps at most {limit} added voices (--max-voices).")


class NotStored(SpeechError):
    """A change of a voice cannot be written to the data directory."""

    def __init__(self, reason: str | None) -> None:
        super().__init__(f"The voice cannot be stored: {reason}.")


class NotOffered(SpeechError):
    """The request is valid, but this server does not offer the feature."""


class Unauthorized(SpeechError):
    """The API key is missing or wrong."""

    def __init__(self) -> None:
        super().__init__("Invalid API key")


class EngineBusy(SpeechError):
    """Every session or slot is in use; the client may retry after `retry_after_s` seconds."""

    def __init__(self, message: str = "The server is at capacity.", *, retry_after_s: int = 1):
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooManyRequests(SpeechError):
    """One client does more at once than a client may."""

    retry_after_s = 1

    def __init__(self, message: str = "Too many connections from this address.") -> None:
        super().__init__(message)


class TooManySessions(TooManyRequests):
    """One API key has as many sessions open as it may have."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"Too many concurrent requests: this API key may have {limit} at once (max_sessions)."
        )


class OriginRefused(SpeechError):
    """A page of an origin that may not use this server opens a socket."""

    def __init__(self) -> None:
        super().__init__("Pages of this origin may not use the server (--cors-origin).")


class InputTimeout(SpeechError):
    """A socket's client sent nothing for `timeout_s` seconds."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            f"Have not received a new text input within the timeout of {timeout_s:.1f} seconds. "
            "Streaming input terminated. Please make sure to either feed the input in the timely "
            'manner, or to send the end of input text (empty string "") when done.'
        )
        self.timeout_s = timeout_s


class ClientStalled(SpeechError):
    """The client did not read its audio for `timeout_s` seconds."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"The audio was not read for {timeout_s:g} seconds.")
        self.timeout_s = timeout_s


class EngineFailed(SpeechError):
    """The engine failed during generation; the cause is in the server's log."""

    def __init__(self, message: str = "The speech engine failed.") -> None:
        super().__init__(message)


class NotFinite(EngineFailed):
    """A value that the model computed for one utterance is NaN or infinite."""

    def __init__(self) -> None:
        super().__init__("The model computed NaN or infinity for this text.")


class ServerLeaving(SpeechError):
    """The server is shutting down, and this session is complete or out of time."""

    retry_after_s = 1

    def __init__(self) -> None:
        super().__init__("The server is shutting down.")


def first_leaf(error: BaseException) -> BaseException:
    """Return the first leaf of an exception group: the error that cancelled the other tasks."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class ProcessFailed(Exception):
    """A process without which the server cannot go on has ended; the message is one sentence."""


class StartupError(Exception):
    """The server cannot start: a bad setting or missing model; the message is one sentence."""
