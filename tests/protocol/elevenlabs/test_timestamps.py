"""The two framings of `stream/with-timestamps`, and the object of both endpoints."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.alignment.alignment import Aligned, Alignment
from csm_trio.protocol.elevenlabs.timestamps import timestamp_object, timestamp_style
from csm_trio.protocol.events import Audio


@given(st.binary())
def test_a_chunk_is_one_line_of_json(data: bytes) -> None:
    line = timestamp_object(Audio("", data))
    assert "\n" not in line
    assert json.loads(line) == {
        "audio_base64": base64.b64encode(data).decode(),
        "alignment": None,
        "normalized_alignment": None,
    }


def test_character_times_count_from_the_start_of_the_answer() -> None:
    one = Alignment(("h", "i"), (0, 25), (25, 55))
    parsed = json.loads(timestamp_object(Audio("", b"", Aligned(one, one, from_ms=1_000))))
    assert parsed["alignment"] == parsed["normalized_alignment"]
    assert parsed["alignment"] == {
        "characters": ["h", "i"],
        "character_start_times_seconds": [1.0, 1.025],
        "character_end_times_seconds": [1.025, 1.08],
    }


@pytest.mark.parametrize(
    ("accept", "style"),
    [
        ("text/event-stream", "sse"),
        ("Text/Event-Stream; charset=utf-8", "sse"),
        ("application/x-ndjson", "ndjson"),
        ("application/json", "ndjson"),
        ("application/json, text/plain, */*", "ndjson"),
        ("text/event-stream, application/json", "sse"),
        ("text/event-stream;q=0.5, application/json;q=0.9", "ndjson"),
        ("application/json;q=0, text/event-stream;q=0.1", "sse"),
        ("application/json;q=oops", "ndjson"),
    ],
)
def test_a_named_media_type_decides(accept: str, style: str) -> None:
    for has_key in (True, False):
        assert timestamp_style(accept, has_api_key_header=has_key) == style


@pytest.mark.parametrize("accept", [None, "", "*/*", "audio/mpeg", "text/event-stream;q=0", ",;,"])
def test_without_a_preference_the_key_header_decides(accept: str | None) -> None:
    assert timestamp_style(accept, has_api_key_header=True) == "ndjson"
    assert timestamp_style(accept, has_api_key_header=False) == "sse"
