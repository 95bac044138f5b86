"""ElevenLabs' SDKs, unmodified, against a real server on the embedded voice.

One program in Python, run with the current SDK and with 2.3.0, and its twin in JavaScript: their
results must be the same, and the audio that of a bare HTTP client.
"""

import base64
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from clients.conftest import HERE, KEY, Program, Served
from support.spectrum import spectral_distance

pytestmark = pytest.mark.clients

SDKS = ["python", "python-2.3.0", "javascript"]
TEXT = "Thank you for calling."
PROGRAM = HERE / "elevenlabs_program.py"

Results = dict[str, Any]


@pytest.fixture(scope="module", params=SDKS)
def sdk(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def results(sdk: str, server: Served, run: Program, request: pytest.FixtureRequest) -> Results:
    """Run the program of one SDK; Python's over TLS, which its realtime socket insists on."""
    if sdk == "javascript":
        return dict(request.getfixturevalue("javascript_results"))
    python: Path | str = sys.executable
    if sdk == "python-2.3.0":
        python = request.getfixturevalue("old_python")
    results = run(python, PROGRAM, server.tls_url, KEY, certificates=server.certificates)
    assert sdk == "python" or results["version"] == "2.3.0"
    return results


def speak(server: Served, voice: str = "default", **query: str) -> bytes:
    answer = httpx.post(
        f"{server.url}/v1/text-to-speech/{voice}",
        params=query,
        json={"text": TEXT, "seed": 7},
        headers={"xi-api-key": KEY},
        trust_env=False,
        timeout=60,
    )
    assert answer.status_code == 200
    return answer.content


def test_every_endpoint_gives_the_same_audio(results: Results, server: Served) -> None:
    plain = speak(server)
    speech = results["speech"]
    for way in ("convert", "stream", "with_timestamps", "stream_with_timestamps", "raw"):
        assert base64.b64decode(speech[way]) == plain, way
    assert speech["timestamp_chunks"] > 3


def test_a_dialogue_has_voice_segments(results: Results, sdk: str) -> None:
    if sdk == "python-2.3.0":
        pytest.skip("that SDK knows no such dialogues yet")
    dialogue = results["dialogue"]
    for way in ("with_timestamps", "stream_with_timestamps"):
        assert dialogue[way] == dialogue["convert"], way
    assert dialogue["chars"] == "How are you? Fine, thanks. "
    assert dialogue["segments"] == [[0, "speaker_1", 0, 13], [1, "speaker_2", 13, 27]]
    assert dialogue["streamed_inputs"] == [0, 1]


def test_other_settings_give_other_audio(results: Results) -> None:
    speech = results["speech"]
    pcm = np.frombuffer(base64.b64decode(speech["convert_pcm"]), dtype="<i2")
    assert 0.5 < len(pcm) / 24_000 < 6.0
    assert np.abs(pcm.astype(np.int32)).max() > 3_000
    assert speech["chained"] != speech["convert"], "the request before it is in the prompt"


def test_the_headers_that_clients_read_are_present(results: Results) -> None:
    headers = results["speech"]["headers"]
    assert headers["content-type"] == "audio/mpeg"
    assert headers["request-id"]
    assert headers["history-item-id"]
    assert headers["character-cost"] == str(len(TEXT))
    assert int(headers["maximum-concurrent-requests"]) >= 1


def test_the_lists_are_read(results: Results) -> None:
    lists = results["lists"]
    assert lists["voices"][0] == ["default", "default", "premade"]
    assert len(lists["voices"]) == 5
    assert lists["page"] == [["speaker_0", "speaker_1"], True, 4]
    assert lists["next_page"] == ["speaker_2", "speaker_3"]
    assert lists["voice"] == "speaker_1"
    assert (lists["default_stability"], lists["edited_stability"]) == (0.5, 0.9)
    assert lists["models"]["eleven_multilingual_v2"] == ["en"]
    assert (lists["user"], lists["subscription"], lists["history"]) == (
        *("active", ["active", 0], [0, False]),
    )


def test_a_voice_is_cloned_used_renamed_and_deleted(
    results: Results, sdk: str, server: Served
) -> None:
    """The clip is of speaker 2, and so its speech is nearer to that speaker's than to another's."""
    if sdk == "python-2.3.0":
        pytest.skip("its calls are those of the current one, but for the type of labels")
    clone = results["clone"]
    assert clone["voice"] == ["Clone", "cloned", "Of speaker 2.", "none"]
    assert clone["sample"] == "RIFF"
    speech = np.frombuffer(base64.b64decode(clone["speech"]), "<i2")
    assert 0.5 < len(speech) / 24_000 < 6.0
    distances = [
        spectral_distance(speech, np.frombuffer(spoken, "<i2"))
        for spoken in (
            speak(server, voice=f"speaker_{speaker_id}", output_format="pcm_24000")
            for speaker_id in (0, 1, 2, 3)
        )
    ]
    assert int(np.argmin(distances)) == 2, distances
    assert (clone["renamed"], clone["gone"]) == ("Renamed", 404)


def test_a_single_use_token_is_issued(results: Results, sdk: str) -> None:
    if sdk == "python-2.3.0":
        assert "token" not in results, "that SDK knows no tokens yet"
    else:
        assert len(results["token"]) > 20


STATUSES = {
    "key": (401, "invalid_api_key"),
    "key_of_speech": (401, "invalid_api_key"),
    "voice": (404, "voice_not_found"),
    "format": (403, "invalid_output_format"),
    "length": (413, "max_character_limit_exceeded"),
    "delete": (403, "feature_not_available"),
}


def test_the_sdks_error_carries_the_vendors_body(results: Results, sdk: str) -> None:
    errors = results["errors"]
    for case, field in (("field", ["voice_settings", "stability"]), ("transcript", ["transcript"])):
        status, body = errors.pop(case)
        assert status == 422
        assert body["detail"][0]["loc"] == ["body", *field]
    expected = dict(STATUSES)
    if sdk == "javascript":
        del expected["format"]  # it checks the format by itself
    assert errors.keys() == expected.keys()
    for case, (status, legacy) in expected.items():
        assert (errors[case][0], errors[case][1]["detail"]["status"]) == (status, legacy), case


def test_the_realtime_socket_serves_a_turn_after_a_barge_in(
    results: Results, sdk: str, server: Served
) -> None:
    if sdk == "javascript":
        pytest.skip("that SDK has no realtime class")
    realtime = results["realtime"]
    for turn in ("whole", "next_turn"):
        assert 0.5 < len(base64.b64decode(realtime[turn])) / 48_000 < 6.0
    assert realtime["heard_before_the_interruption"] > 0
    metrics = httpx.get(f"{server.url}/metrics", trust_env=False).text
    assert "csm_slots_used 0.0" in metrics
    assert "csm_sessions 0.0" in metrics
