"""Each parser reads the fields that its description has, and no other."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from csm_trio.pipeline.session import SocketProtocol
from csm_trio.protocol import rest
from csm_trio.protocol.described import Field
from csm_trio.protocol.elevenlabs import socket_messages_in
from csm_trio.protocol.elevenlabs.catalog import VOICES_QUERY, parse_voices_query
from csm_trio.protocol.elevenlabs.dialogue_request import (
    DIALOGUE_QUERY,
    dialogue_body,
    parse_dialogue_request,
)
from csm_trio.protocol.elevenlabs.dialogue_socket import (
    DIALOGUE_MESSAGE,
    MULTI_DIALOGUE_MESSAGE,
    DialogueProtocol,
)
from csm_trio.protocol.elevenlabs.multi_stream_input import (
    MULTI_SPEECH_MESSAGE,
    MultiStreamInputProtocol,
)
from csm_trio.protocol.elevenlabs.socket_query import (
    DIALOGUE_SOCKET_QUERY,
    SOCKET_QUERY,
    parse_socket_query,
)
from csm_trio.protocol.elevenlabs.speech_request import (
    SPEECH_QUERY,
    parse_speech_request,
    speech_body,
)
from csm_trio.protocol.elevenlabs.stream_input import STREAM_INPUT_MESSAGE, StreamInputProtocol
from csm_trio.protocol.openai import openai_body, parse_openai_request


class RecordedNames(dict[str, Any]):
    """Values that record which names were looked for."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return super().__getitem__(name)


def names_of(fields: tuple[Field, ...]) -> set[str]:
    return {field.name for field in fields}


@pytest.fixture
def read_names(monkeypatch: pytest.MonkeyPatch) -> list[RecordedNames]:
    """Record the names of each JSON object that is read, in order."""
    recorded: list[RecordedNames] = []

    def parse(pairs: list[tuple[str, Any]]) -> RecordedNames:
        values = RecordedNames(dict(pairs))
        recorded.append(values)
        return values

    decoder = json.JSONDecoder(object_pairs_hook=parse)
    monkeypatch.setattr(rest, "parse_object", decoder.decode)
    monkeypatch.setattr(socket_messages_in, "parse_object", decoder.decode)
    return recorded


BODIES: dict[str, tuple[Any, tuple[Field, ...], dict[str, Any]]] = {
    "speech": (
        lambda body: parse_speech_request(body, {}, voice_id="", max_chars=10),
        speech_body(10),
        {"text": "Hi.", "seed": 1},
    ),
    "dialogue": (
        lambda body: parse_dialogue_request(body, {}, max_chars=10),
        dialogue_body(10),
        {"inputs": [{"voice_id": "a", "text": "Hi."}], "seed": 1},
    ),
    "openai": (
        lambda body: parse_openai_request(body, max_chars=10),
        openai_body(10),
        {"model": "a", "input": "Hi.", "voice": "alloy", "seed": 1},
    ),
}


@pytest.mark.parametrize("kind", BODIES)
def test_a_parser_reads_the_fields_that_its_body_describes(
    kind: str, read_names: list[RecordedNames]
) -> None:
    parse, fields, body = BODIES[kind]
    parse(json.dumps(body).encode())
    assert read_names[-1].names == names_of(fields)


SOCKETS: dict[str, tuple[Callable[[], SocketProtocol], tuple[Field, ...], dict[str, Any]]] = {
    "stream-input": (StreamInputProtocol, STREAM_INPUT_MESSAGE, {"text": "Hi.", "seed": 1}),
    "multi-stream-input": (
        MultiStreamInputProtocol,
        MULTI_SPEECH_MESSAGE,
        {"text": "Hi.", "seed": 1},
    ),
    "dialogue": (
        lambda: DialogueProtocol(lambda _: 0, named_contexts=False),
        DIALOGUE_MESSAGE,
        {"voices": ["a"], "inputs": [{"text": "Hi."}], "seed": 1},
    ),
    "dialogues": (
        lambda: DialogueProtocol(lambda _: 0, named_contexts=True),
        MULTI_DIALOGUE_MESSAGE,
        {"voices": ["a"], "inputs": [{"text": "Hi."}], "seed": 1, "contextId": "a"},
    ),
}


@pytest.mark.parametrize("kind", SOCKETS)
def test_a_socket_reads_the_fields_that_its_message_describes(
    kind: str, read_names: list[RecordedNames]
) -> None:
    make, fields, message = SOCKETS[kind]
    make().receive(json.dumps(message))
    assert read_names[-1].names == names_of(fields)


QUERIES: dict[str, tuple[Callable[[RecordedNames], object], tuple[Field, ...]]] = {
    "speech": (
        lambda query: parse_speech_request(b'{"text": "Hi."}', query, voice_id="", max_chars=10),
        SPEECH_QUERY,
    ),
    "dialogue": (
        lambda query: parse_dialogue_request(
            b'{"inputs": [{"voice_id": "a", "text": "Hi."}]}', query, max_chars=10
        ),
        DIALOGUE_QUERY,
    ),
    "socket": (parse_socket_query, SOCKET_QUERY),
    "dialogue socket": (
        lambda query: parse_socket_query(query, dialogue=True),
        DIALOGUE_SOCKET_QUERY,
    ),
    # The endpoint reads all values of `voice_ids`, the parser every other parameter.
    "voices": (
        lambda query: parse_voices_query(query, query.get("voice_ids", [])),
        VOICES_QUERY,
    ),
}


@pytest.mark.parametrize("kind", QUERIES)
def test_a_parser_reads_the_parameters_that_its_query_describes(kind: str) -> None:
    parse, fields = QUERIES[kind]
    # `read_settings` looks for nothing by name in a query without any setting.
    query = RecordedNames({"seed": "1"})
    parse(query)
    assert query.names == names_of(fields) | {"voice_settings"} & query.names
