"""A program written for OpenAI's Python SDK; prints the results as JSON.

It knows nothing of this server but its address: `openai_program.py BASE_URL API_KEY`.
"""

import base64
import json
import sys
from collections.abc import Callable
from typing import Any

from openai import APIStatusError, OpenAI

SPEECH: dict[str, Any] = {"model": "gpt-4o-mini-tts", "voice": "alloy"}
SPEECH["input"] = "Thank you for calling."
SEED = {"seed": 7}


def text(sound: bytes) -> str:
    return base64.b64encode(sound).decode()


def refusal(request: Callable[[], object]) -> list[object]:
    """Return the class, the status and the body of the error that a request must raise."""
    try:
        request()
    except APIStatusError as error:
        return [type(error).__name__, error.status_code, error.body]
    raise AssertionError("it was not refused")


def main(base_url: str, api_key: str) -> dict[str, object]:
    client = OpenAI(base_url=f"{base_url}/v1", api_key=api_key)
    stranger = OpenAI(base_url=f"{base_url}/v1", api_key="wrong")
    speech = client.audio.speech
    streaming = speech.with_streaming_response
    with streaming.create(**SPEECH, response_format="pcm", extra_body=SEED) as answer:
        chunks = list(answer.iter_bytes())
        request_id = answer.request_id
    with streaming.create(
        **SPEECH, response_format="pcm", stream_format="sse", extra_body=SEED
    ) as answer:
        events = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]
    formats: dict[str, list[object]] = {}
    for name in ("mp3", "opus", "aac", "flac", "wav", "pcm"):
        made = speech.create(**SPEECH, response_format=name, instructions="Be glad.")
        formats[name] = [made.response.headers["content-type"], text(made.content)]
    fast = speech.create(**SPEECH, response_format="pcm", speed=2.0, extra_body=SEED).content
    named = {**SPEECH, "voice": {"id": "speaker_2"}}
    return {
        "stream": text(b"".join(chunks)),
        "chunks": len(chunks),
        "request_id": request_id,
        "events": events,
        "formats": formats,
        "fast": text(fast),
        "named": len(speech.create(**named).content),
        "models": [model.id for model in client.models.list()],
        "model": client.models.retrieve("tts-1").owned_by,
        "errors": {
            "key": refusal(lambda: stranger.models.list()),
            "voice": refusal(lambda: speech.create(**{**SPEECH, "voice": "nobody"})),
            "length": refusal(lambda: speech.create(**{**SPEECH, "input": "a" * 4097})),
            "format": refusal(lambda: speech.create(**{**SPEECH, "response_format": "ogg"})),
            "model": refusal(lambda: client.models.retrieve("gpt-4")),
        },
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
