"""Socket messages are the JSON of their members, for any characters and bytes."""

import base64
import json

from hypothesis import given
from hypothesis import strategies as st

from csm_trio.alignment.alignment import Aligned, Alignment
from csm_trio.protocol.elevenlabs.socket_messages_out import (
    dialogue_message,
    message_text,
    named_message,
    speech_message,
)
from csm_trio.protocol.events import Audio

ANY_CHARACTER = st.characters(codec=None, categories=None)  # surrogates and controls, too


def alignments() -> st.SearchStrategy[Alignment]:
    char = st.tuples(ANY_CHARACTER, st.integers(0, 10_000), st.integers(0, 10_000))
    return st.lists(char, min_size=1, max_size=8).map(
        lambda chars: Alignment(*map(tuple, zip(*chars, strict=True)))
    )


def expected(alignment: Alignment, starts: str, durations: str) -> dict[str, object]:
    return {
        "chars": list(alignment.chars),
        starts: list(alignment.starts_ms),
        durations: list(alignment.durations_ms),
    }


@given(st.text(ANY_CHARACTER), st.binary(max_size=50), alignments(), alignments(), st.booleans())
def test_a_speech_message_is_valid_json_of_any_characters(
    name: str, data: bytes, written: Alignment, spoken: Alignment, same: bool
) -> None:
    aligned = Aligned(written, written if same else spoken, 500)
    message = named_message(speech_message(Audio(name, data, aligned), from_start=True), name)
    keys = "charStartTimesMs", "charDurationsMs"
    assert json.loads(message_text(message)) == {
        "audio": base64.b64encode(data).decode(),
        "isFinal": False,
        "normalizedAlignment": expected(aligned.spoken.shifted(500), *keys),
        "alignment": expected(written.shifted(500), *keys),
        "is_final": False,
        "contextId": name or None,
        "context_id": name or None,
    }


@given(st.binary(max_size=50), alignments(), alignments(), st.booleans())
def test_a_dialogue_message_is_valid_json_of_any_characters(
    data: bytes, written: Alignment, spoken: Alignment, same: bool
) -> None:
    aligned = Aligned(written, written if same else spoken, 500, late_ms=40)
    keys = "char_start_times_ms", "char_durations_ms"
    assert json.loads(message_text(dialogue_message(Audio("", data, aligned)))) == {
        "audio": base64.b64encode(data).decode(),
        "alignment": expected(written.since(40), *keys),
        "normalized_alignment": expected(aligned.spoken.since(40), *keys),
    }


def test_a_message_without_audio_is_plain_json() -> None:
    message = {"message": 'é "x" \n', "code": 1008, "error": True, "details": {"param": None}}
    assert message_text(message) == json.dumps(message)
