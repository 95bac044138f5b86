"""A full server: the SDKs retry after `Retry-After`."""

import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from elevenlabs import ElevenLabs
from openai import OpenAI
from websockets.sync.client import connect

from clients.conftest import KEY, Served

pytestmark = pytest.mark.clients

TEXT = "Good."
DEADLINE_S = 60


def by_elevenlabs(url: str) -> int:
    with httpx.Client(timeout=DEADLINE_S) as transport:
        client = ElevenLabs(base_url=url, api_key=KEY, httpx_client=transport)
        answer = client.text_to_speech.convert_with_timestamps("default", text=TEXT)
    return len(answer.audio_base_64)


def by_openai(url: str) -> int:
    with OpenAI(base_url=f"{url}/v1", api_key=KEY) as client:
        speech = client.audio.speech.create(model="tts-1", voice="alloy", input=TEXT)
    return len(speech.content)


def refusals(served: Served) -> float:
    """Return how many sessions were refused at the limit."""
    metrics = httpx.get(f"{served.url}/metrics", trust_env=False).text.splitlines()
    name = 'csm_refusals_total{reason="EngineBusy"} '
    return sum(float(line.removeprefix(name)) for line in metrics if line.startswith(name))


@pytest.mark.parametrize("speak", [by_elevenlabs, by_openai])
def test_an_sdk_retries_at_a_full_server(
    speak: Callable[[str], int], single_session_server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    before = refusals(single_session_server)
    received: list[Any] = []
    retrying = threading.Thread(
        target=lambda: received.append(speak(single_session_server.url)), daemon=True
    )
    address = f"ws://127.0.0.1:{single_session_server.port}/v1/text-to-speech/default/stream-input"
    with connect(address, additional_headers={"xi-api-key": KEY}):
        retrying.start()
        while refusals(single_session_server) == before:
            retrying.join(0.02)
            assert retrying.is_alive(), "it gave up at once"
    retrying.join(DEADLINE_S)
    assert received
    assert received[0] > 1_000
