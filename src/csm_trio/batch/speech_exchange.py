"""Ask a server for one item's speech: the request, and what its answer means for the batch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from csm_trio.audio.formats import AudioFormat
from csm_trio.batch.http_exchange import AnswerLost, HttpAnswer, exchange
from csm_trio.batch.item import Item
from csm_trio.protocol.fields import parse_object

# A long text, at batch priority beside live calls, may take minutes before the first byte.
_ANSWER_TIMEOUT_S = 900.0
_METRICS_TIMEOUT_S = 10.0
_MAX_RETRY_AFTER_S = 60.0
_DEFAULT_RETRY_AFTER_S = 1.0
_MAX_REASON_CHARS = 300

_LIMIT_METRIC, _OPEN_METRIC = "csm_sessions_limit", "csm_sessions"
_LIMIT_HEADER, _OPEN_HEADER = "maximum-concurrent-requests", "current-concurrent-requests"


class ItemRefused(Exception):
    """The server will never synthesize this item; the message is its reason."""


class KeyRefused(Exception):
    """The server refuses the API key, hence every item; the message is its reason."""


class ServerBusy(Exception):
    """The server has no free session now; it asks to be left alone for `retry_after_s`."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"busy for {retry_after_s:g} s")
        self.retry_after_s = retry_after_s


class AttemptFailed(Exception):
    """The server failed; another attempt may succeed."""


@dataclass(frozen=True, slots=True)
class SessionCount:
    """How many sessions a server has open, and how many it admits."""

    open: int
    limit: int


@dataclass(frozen=True, slots=True)
class Speech:
    """Audio from a server, and the server's sessions when it began."""

    audio: bytes
    sessions: SessionCount | None


async def request_speech(
    base_url: str,
    api_key: str | None,
    item: Item,
    *,
    audio_format: AudioFormat,
    speed: float,
) -> Speech:
    """Return the speech of an item.

    Raises `ItemRefused`, `KeyRefused`, `ServerBusy` or `AttemptFailed` by the server's answer,
    `ServerUnreachable` or `AnswerLost` without one.
    """
    # Without logging a batch cannot push live requests out of the server's request history.
    query = {"output_format": audio_format.name, "enable_logging": "false"}
    body: dict[str, object] = {"text": item.text, "priority": "batch", **item.settings}
    if speed != 1.0:
        body["voice_settings"] = {"speed": speed}
    answer = await exchange(
        base_url,
        "POST",
        f"/v1/text-to-speech/{quote(item.voice_id, safe='')}?{urlencode(query)}",
        headers={"content-type": "application/json", **_key_header(api_key)},
        body=json.dumps(body).encode("utf-8"),
        timeout_s=_ANSWER_TIMEOUT_S,
    )
    _check(answer)
    if not answer.body:
        raise ItemRefused("The server sent no audio.")
    return Speech(answer.body, _sessions_of_headers(answer.headers))


async def request_sessions(base_url: str, api_key: str | None) -> SessionCount | None:
    """Return the server's sessions by its metrics; None where it lives but publishes none.

    Raises `ServerUnreachable` or `AnswerLost` where it does not answer.
    """
    answer = await exchange(
        base_url, "GET", "/metrics", headers=_key_header(api_key), timeout_s=_METRICS_TIMEOUT_S
    )
    if answer.status in (502, 503, 504):  # a proxy's, whose server is gone
        raise AnswerLost(f"HTTP status {answer.status}")
    counts = {}
    for line in answer.body.decode("utf-8", "replace").splitlines():
        name, _, value = line.partition(" ")
        if name in (_LIMIT_METRIC, _OPEN_METRIC):
            counts[name] = value
    return _session_count(counts.get(_OPEN_METRIC), counts.get(_LIMIT_METRIC))


def _key_header(api_key: str | None) -> dict[str, str]:
    return {} if api_key is None else {"xi-api-key": api_key}


def _sessions_of_headers(headers: Mapping[str, str]) -> SessionCount | None:
    return _session_count(headers.get(_OPEN_HEADER), headers.get(_LIMIT_HEADER))


def _session_count(open_text: str | None, limit_text: str | None) -> SessionCount | None:
    try:
        count = SessionCount(int(float(open_text or "")), int(float(limit_text or "")))
    except (ValueError, OverflowError):
        return None
    return count if count.open >= 0 and count.limit > 0 else None


def _check(answer: HttpAnswer) -> None:
    """Raise what a status other than 200 means."""
    status = answer.status
    if status == 200:
        return
    reason = f"{_reason(answer.body)} (HTTP status {status})"
    if status in (429, 503):
        raise ServerBusy(_retry_after_s(answer.headers))
    if status == 401:
        raise KeyRefused(reason)
    if status == 408 or status >= 500:
        raise AttemptFailed(reason)
    raise ItemRefused(reason)


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Return the seconds of `Retry-After`; a date (RFC 9110 §10.2.3) counts as the default."""
    text = headers.get("retry-after", "")
    wait_s = float(text) if text.isascii() and text.isdecimal() else _DEFAULT_RETRY_AFTER_S
    return min(wait_s, _MAX_RETRY_AFTER_S)


def _reason(body: bytes) -> str:
    """Return the error of a body in ElevenLabs' form, in one printable line."""
    try:
        detail = parse_object(body.decode("utf-8")).get("detail")
    except ValueError:
        detail = None
    reason: object = "The server refused"
    match detail:
        case {"message": reason} | str(reason):
            pass
        case [{"loc": [*_, name], "msg": message}, *_]:
            reason = message if str(name) in str(message) else f"{name}: {message}"
    printable = "".join(char if char.isprintable() else " " for char in str(reason))
    return printable.strip()[:_MAX_REASON_CHARS]
