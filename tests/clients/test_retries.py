"""A full house, as the SDKs meet it: they come again when they were told to."""

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
    """Return how often the house was found full."""
    figures = httpx.get(f"{served.url}/metrics", trust_env=False).text.splitlines()
    name = 'csm_refusals_total{reason="EngineBusy"} '
    return sum(float(line.removeprefix(name)) for line in figures if line.startswith(name))


@pytest.mark.parametrize("speak", [by_elevenlabs, by_openai])
def test_a_call_that_finds_the_house_full_comes_again(
    speak: Callable[[str], int], house_of_one: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    before = refusals(house_of_one)
    heard: list[Any] = []
    caller = threading.Thread(target=lambda: heard.append(speak(house_of_one.url)), daemon=True)
    address = f"ws://127.0.0.1:{house_of_one.port}/v1/text-to-speech/default/stream-input"
    with connect(address, additional_headers={"xi-api-key": KEY}):
        caller.start()
        while refusals(house_of_one) == before:
            caller.join(0.02)
            assert caller.is_alive(), "it gave up at once"
    caller.join(DEADLINE_S)
    assert heard
    assert heard[0] > 1_000
