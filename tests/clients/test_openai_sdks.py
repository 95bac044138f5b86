"""OpenAI's SDKs, unmodified, against a real server on the embedded voice."""

import base64
import sys
from typing import Any

import pytest

from clients.conftest import HERE, KEY, Program, Served

pytestmark = pytest.mark.clients

Results = dict[str, Any]


@pytest.fixture(scope="module")
def results(server: Served, run: Program) -> Results:
    return run(sys.executable, HERE / "openai_program.py", server.url, KEY)


def test_events_and_bytes_carry_the_same_audio(results: Results) -> None:
    *deltas, done = results["events"]
    sound = base64.b64decode(results["stream"])
    assert b"".join(base64.b64decode(delta["audio"]) for delta in deltas) == sound
    assert done["type"] == "speech.audio.done"
    assert done["usage"]["output_tokens"] * 1_920 * 2 == len(sound)
    assert results["chunks"] > 1
    assert results["request_id"]


def test_every_format_has_its_content_type_and_signature(results: Results) -> None:
    marks = {
        "mp3": ("audio/mpeg", b"\xff"),
        "opus": ("audio/opus", b"OggS"),
        "aac": ("audio/aac", b"\xff"),
        "flac": ("audio/flac", b"fLaC"),
        "wav": ("audio/wav", b"RIFF"),
        "pcm": ("audio/pcm", b""),
    }
    assert results["formats"].keys() == marks.keys()
    for name, (content_type, mark) in marks.items():
        told_type, sound = results["formats"][name]
        assert told_type == content_type
        assert base64.b64decode(sound).startswith(mark)


def test_twice_the_speed_is_half_as_long(results: Results) -> None:
    ordinary, fast = (len(base64.b64decode(results[way])) for way in ("stream", "fast"))
    assert fast / ordinary == pytest.approx(0.5, abs=0.05)
    assert results["named"] > 1_000


def test_the_models_are_listed_and_shown(results: Results) -> None:
    assert "tts-1" in results["models"]
    assert results["model"] == "csm-trio"


def test_the_sdk_knows_each_error(results: Results) -> None:
    told_errors = {
        case: (kind, status, body["param"], body["code"])
        for case, (kind, status, body) in results["errors"].items()
    }
    assert told_errors == {
        "key": ("AuthenticationError", 401, None, "invalid_api_key"),
        "voice": ("BadRequestError", 400, "voice", "invalid_value"),
        "length": ("BadRequestError", 400, "input", "string_above_max_length"),
        "format": ("BadRequestError", 400, "response_format", "invalid_value"),
        "model": ("NotFoundError", 404, "model", "model_not_found"),
    }


def test_the_javascript_sdk_gets_speech(javascript_results: Results) -> None:
    results = javascript_results["openai"]
    assert results["bytes"] > 20_000
    assert set(results["events"][:-1]) == {"speech.audio.delta"}
    assert results["events"][-1] == "speech.audio.done"
    assert "tts-1" in results["models"]
    assert results["errors"]["key"][0] == 401
    assert results["errors"]["voice"][1]["param"] == "voice"
