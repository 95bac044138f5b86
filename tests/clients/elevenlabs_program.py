"""A program written for ElevenLabs' Python SDK, 2.3.0 or later; prints the results as JSON.

It knows nothing of this server but its address: `elevenlabs_program.py BASE_URL API_KEY`.
"""

import base64
import io
import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

from elevenlabs import ElevenLabs, VoiceSettings
from elevenlabs.core.api_error import ApiError

OLD = version("elevenlabs").startswith("2.3.")
TEXT = "Thank you for calling."
CALM = VoiceSettings(
    stability=0.9, similarity_boost=0.8, style=0.0, use_speaker_boost=True, speed=1.0
)


def connect(base_url: str, api_key: str) -> ElevenLabs:
    if not OLD:
        return ElevenLabs(base_url=base_url, api_key=api_key)
    from elevenlabs import environment

    # Version 2.3 had a class in place of the enumeration; `base_url` kept only its host.
    make: Any = environment.ElevenLabsEnvironment
    own = make(base=base_url, wss=base_url.replace("http", "ws", 1))
    return ElevenLabs(environment=own, api_key=api_key)


def text(chunks: Any) -> str:
    return base64.b64encode(b"".join(chunks)).decode()


def refusal(request: Callable[[], object]) -> list[object]:
    """Return the status and the body of the error that a request must raise."""
    try:
        request()
    except ApiError as error:
        body = error.body
        return [error.status_code, body if isinstance(body, dict) else json.loads(body.json())]
    raise AssertionError("it was not refused")


def speech(client: ElevenLabs) -> dict[str, object]:
    speak = client.text_to_speech
    requested: dict[str, Any] = {"text": TEXT, "seed": 7}
    whole = speak.convert_with_timestamps("default", **requested)
    chunks = list(speak.stream_with_timestamps("default", **requested))
    with speak.with_raw_response.stream("default", **requested) as raw:
        sound, headers = text(raw.data), dict(raw.headers)
    first = headers["request-id"]
    return {
        "convert": text(speak.convert("default", **requested)),
        "convert_pcm": text(
            speak.convert(
                "speaker_1", **requested, output_format="pcm_24000", model_id="eleven_flash_v2_5",
                voice_settings=CALM, previous_text="Hello.", next_text="How can I help?",
            )
        ),
        "stream": text(speak.stream("default", **requested)),
        "with_timestamps": whole.audio_base_64,
        "stream_with_timestamps": text(base64.b64decode(one.audio_base_64) for one in chunks),
        "timestamp_chunks": len(chunks),
        "raw": sound,
        "headers": headers,
        "chained": text(speak.convert("default", **requested, previous_request_ids=[first])),
    }  # fmt: skip


def dialogue(client: ElevenLabs) -> dict[str, object]:
    lines = [{"text": "How are you?", "voice_id": "speaker_1"}]
    lines.append({"text": "Fine, thanks.", "voice_id": "speaker_2"})
    speak = client.text_to_dialogue
    requested: dict[str, Any] = {"inputs": lines, "seed": 7}
    whole = speak.convert_with_timestamps(**requested)
    chunks = list(speak.stream_with_timestamps(**requested))
    segments = [part for one in chunks for part in one.voice_segments]
    return {
        "convert": text(speak.convert(**requested)),
        "with_timestamps": whole.audio_base_64,
        "stream_with_timestamps": text(base64.b64decode(one.audio_base_64) for one in chunks),
        "chars": "".join(whole.alignment.characters if whole.alignment else []),
        "segments": [
            [one.dialogue_input_index, one.voice_id, one.character_start_index,
             one.character_end_index]
            for one in whole.voice_segments
        ],
        "streamed_inputs": sorted({one.dialogue_input_index for one in segments}),
    }  # fmt: skip


def lists(client: ElevenLabs) -> dict[str, object]:
    settings = client.voices.settings
    page = client.voices.search(page_size=2, search="speaker", include_total_count=True)
    settings.update("speaker_3", request=CALM)
    subscription = client.user.subscription.get()
    return {
        "voices": [
            [one.voice_id, one.name, one.category] for one in client.voices.get_all().voices
        ],
        "page": [[one.voice_id for one in page.voices], page.has_more, page.total_count],
        "next_page": [
            one.voice_id
            for one in client.voices.search(
                page_size=2, search="speaker", next_page_token=page.next_page_token
            ).voices
        ],
        "voice": client.voices.get("speaker_1").voice_id,
        "default_stability": settings.get_default().stability,
        "edited_stability": settings.get("speaker_3").stability,
        "models": {
            one.model_id: [language.language_id for language in one.languages or []]
            for one in client.models.list()
        },
        "user": client.user.get().subscription.status,
        "subscription": [subscription.status, len(subscription.open_invoices)],
        "history": [len(client.history.list().history), client.history.list().has_more],
    }


def clone(client: ElevenLabs) -> dict[str, object]:
    """Add a voice, speak in it, rename it, delete it."""
    spoken = "Please call me back tomorrow morning, when the office is open again."
    speak = client.text_to_speech
    clip = b"".join(speak.convert("speaker_2", text=spoken, seed=7))
    added = client.voices.ivc.create(
        name="Clone", files=[io.BytesIO(clip)], description="Of speaker 2.",
        labels={"transcript": spoken, "accent": "none"},
    )  # fmt: skip
    voice = client.voices.get(added.voice_id)
    samples = voice.samples or []
    sample = b"".join(client.voices.samples.audio.get(added.voice_id, samples[0].sample_id or ""))
    speech = list(speak.convert(added.voice_id, text=TEXT, output_format="pcm_24000"))
    client.voices.update(added.voice_id, name="Renamed")
    renamed = client.voices.get(added.voice_id).name
    client.voices.delete(added.voice_id)
    return {
        "voice": [voice.name, voice.category, voice.description, (voice.labels or {})["accent"]],
        "sample": sample[:4].decode(),
        "speech": text(speech),
        "renamed": renamed,
        "gone": refusal(lambda: client.voices.get(added.voice_id))[0],
    }


def errors(client: ElevenLabs, stranger: ElevenLabs) -> dict[str, object]:
    speak = client.text_to_speech
    loud = VoiceSettings(stability=3)
    strange = stranger.text_to_speech
    return {
        "key": refusal(lambda: stranger.voices.get_all()),
        "key_of_speech": refusal(lambda: list(strange.convert("default", text="a"))),
        "voice": refusal(lambda: list(speak.convert("nobody", text="a"))),
        "format": refusal(lambda: list(speak.convert("default", text="a", output_format="mp3_1"))),
        "field": refusal(lambda: list(speak.convert("default", text="a", voice_settings=loud))),
        "length": refusal(lambda: list(speak.convert("default", text="a" * 10_001))),
        "transcript": refusal(
            lambda: client.voices.ivc.create(name="x", files=[io.BytesIO(bytes(300_000))])
        ),
        "delete": refusal(lambda: client.voices.delete("default")),
    }  # fmt: skip


def realtime(client: ElevenLabs) -> dict[str, object]:
    """Speak while text is being written; then interrupt, and speak again."""

    def writing(sentences: int) -> Iterator[str]:
        for _ in range(sentences):
            yield from ("Thank ", "you ", "for ", "calling. ")

    def turn(sentences: int) -> Iterator[bytes]:
        return client.text_to_speech.convert_realtime(
            "default",
            text=writing(sentences),
            model_id="eleven_flash_v2_5",
            output_format="pcm_24000",
            voice_settings=CALM,
        )

    whole = text(turn(1))
    interrupted = turn(20)
    received = len(next(interrupted))
    interrupted.close()  # type: ignore[attr-defined]  # it is a generator
    return {"whole": whole, "heard_before_the_interruption": received, "next_turn": text(turn(1))}


def main(base_url: str, api_key: str) -> dict[str, object]:
    client = connect(base_url, api_key)
    results: dict[str, object] = {
        "version": version("elevenlabs"),
        "speech": speech(client),
        "lists": lists(client),
        "errors": errors(client, connect(base_url, "wrong")),
    }
    if not OLD:
        results["clone"] = clone(client)
        results["dialogue"] = dialogue(client)
        results["token"] = client.tokens.single_use.create("tts_websocket").token
    if base_url.startswith("https"):
        results["realtime"] = realtime(client)
    return results


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
