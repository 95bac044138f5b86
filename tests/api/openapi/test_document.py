"""The OpenAPI document: valid, complete, and true to the answers of a real server."""

import contextlib
import html
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import STDOUT
from typing import Any

import pytest
import trio
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from trio_websocket import ConnectionClosed

from csm_trio.api.openapi.document import PAGES
from csm_trio.api.openapi.page import docs_page
from csm_trio.config import Config, SpeechConfig
from csm_trio.protocol.elevenlabs.voice_form import VOICE_FORM
from csm_trio.protocol.speech_fields import SPEECH_FIELDS
from support.client_calls import http_client, locked
from support.fakes import SineRunner
from support.serving import TEST_SERVER, Server, serving
from support.voice_clips import FakeEncoder

GUARD_S = 1_800.0
VERBS = {"get", "post", "delete"}

# Unknown fields and parameters are ignored, so they are no invalid data; 413 is a rejection; and
# what a schema cannot say: which voices there are, which page tokens were issued, that a form has
# a transcript for each file, how many voices a dialogue has.
FUZZING = """
[checks]
allow_header_conformance.enabled = false
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 413, 415, 422, 429, 503]

[generation]
allow-x00 = true

[[operations]]
include-path = [
    "/v1/voices/add", "/v1/voices/{voice_id}/edit", "/v2/voices", "/v1/audio/speech",
    "/v1/text-to-dialogue", "/v1/text-to-dialogue/stream",
    "/v1/text-to-dialogue/with-timestamps", "/v1/text-to-dialogue/stream/with-timestamps",
]
checks.positive_data_acceptance.enabled = false
"""


async def read_document(server: Server) -> dict[str, Any]:
    async with http_client(server) as client:
        answer = await client.get("/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    return dict(answer.json())


@pytest.mark.parametrize("has_key", [False, True], ids=["open", "locked"])
async def test_the_document_is_valid_and_needs_no_key(has_key: bool) -> None:
    async with serving(SineRunner, Config(server=locked() if has_key else TEST_SERVER)) as server:
        document = await read_document(server)
    validate(document)
    speech = document["paths"]["/v1/text-to-speech/{voice_id}"]["post"]
    assert ("security" in speech, "401" in speech["responses"]) == (has_key, has_key)
    assert "security" not in document["paths"]["/healthz"]["get"]


def described_routes(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for path, item in document["paths"].items():
        yield from ((path, verb.upper()) for verb in item)


async def test_every_route_is_in_the_document() -> None:
    from csm_trio.api.app import create_app

    async with serving(SineRunner) as server:
        document = await read_document(server)
        rules = create_app(server.state).url_map.iter_rules()
    served = {
        (rule.rule.replace("<path:", "<").replace("<", "{").replace(">", "}"), method)
        for rule in rules
        if not rule.websocket and rule.endpoint not in PAGES
        for method in (rule.methods or set()) & {verb.upper() for verb in VERBS}
    }
    assert served == set(described_routes(document))
    ids = [item["operationId"] for path in document["paths"].values() for item in path.values()]
    assert len(set(ids)) == len(ids)


async def test_bounds_are_those_of_the_settings() -> None:
    config = Config(server=TEST_SERVER, speech=SpeechConfig(max_text_chars=77))
    async with serving(SineRunner, config) as server:
        document = await read_document(server)
    body = document["paths"]["/v1/text-to-speech/{voice_id}"]["post"]["requestBody"]
    schema = body["content"]["application/json"]["schema"]
    assert schema["properties"]["text"]["maxLength"] == 77
    assert schema["required"] == ["text"]
    assert schema["properties"].keys() >= SPEECH_FIELDS
    assert schema["properties"]["seed"]["type"] == ["integer", "null"]
    form = document["paths"]["/v1/voices/add"]["post"]["requestBody"]["content"]
    properties = form["multipart/form-data"]["schema"]["properties"]
    assert properties.keys() == {field.name for field in VOICE_FORM}


async def fuzz(tmp_path: Path, *arguments: str) -> None:
    """Run schemathesis over a real server: no server error, and no undocumented answer."""
    config = tmp_path / "schemathesis.toml"
    config.write_text(FUZZING)
    speech = SpeechConfig(data_dir=tmp_path / "data", voice_upload=True, max_voices=3)
    server_config = Config(server=TEST_SERVER, speech=speech)
    program = (sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run")
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner, server_config, encode=FakeEncoder()) as server:
            done = await trio.run_process(
                [
                    *program, server.url("/openapi.json"), "--workers", "2", "--no-color",
                    "--continue-on-failure", "--max-failures", "20", *arguments,
                ],
                capture_stdout=True, stderr=STDOUT, check=False, cwd=tmp_path,
            )  # fmt: skip
    assert done.returncode == 0, done.stdout.decode()[-6_000:]


@pytest.mark.soak
async def test_many_requests_are_answered_as_the_document_says(tmp_path: Path) -> None:
    await fuzz(tmp_path, "--phases", "examples,coverage,fuzzing", "--max-examples", "40")


async def read(path: str) -> Any:
    async with serving(SineRunner) as server, http_client(server) as client:
        answer = await client.get(path)
    assert answer.status_code == 200
    return answer


async def test_every_socket_is_in_the_asyncapi_document() -> None:
    """Its structure, after the specification: every reference is to something that is there."""
    document = (await read("/asyncapi.json")).json()
    assert document["asyncapi"] == "3.0.0"
    assert {one["address"] for one in document["channels"].values()} == {
        "/v1/text-to-speech/{voice_id}/stream-input",
        "/v1/text-to-speech/{voice_id}/multi-stream-input",
        "/v1/text-to-dialogue/stream-input",
        "/v1/text-to-dialogue/multi-stream-input",
    }
    for operation in document["operations"].values():
        assert operation["action"] in ("send", "receive")
        for reference in (operation["channel"], *operation["messages"]):
            found: Any = document
            for part in reference["$ref"].removeprefix("#/").split("/"):
                found = found[part]
    for channel in document["channels"].values():
        assert set(channel.get("parameters", {})) == set(re.findall(r"{(\w+)}", channel["address"]))
        for message in channel["messages"].values():
            Draft202012Validator.check_schema(message["payload"])


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        ("text-to-speech/{voice}/stream-input", "sockets_stream_input"),
        ("text-to-speech/{voice}/multi-stream-input", "sockets_multi_stream_input"),
    ],
)
async def test_messages_of_sockets_are_as_described(endpoint: str, name: str) -> None:
    sent = [
        {"text": "Hello there. ", "voice_settings": {"speed": 1.1}, "context_id": "a"},
        {"text": "More.", "flush": True, "context_id": "a"},
        {"text": "", "context_id": "a"} if "multi" not in endpoint else {"close_socket": True},
    ]
    received: list[Any] = []
    async with serving(SineRunner) as server:
        async with http_client(server) as client:
            document = (await client.get("/asyncapi.json")).json()
        async with server.dial(endpoint=endpoint) as ws:
            for message in sent:
                await ws.send_message(json.dumps(message))
            with contextlib.suppress(ConnectionClosed):
                while True:
                    received.append(json.loads(await ws.get_message()))
    messages = document["channels"][name]["messages"]
    known = Draft202012Validator(messages["message"]["payload"])
    assert all(known.is_valid(message) for message in sent)
    answers = Draft202012Validator(
        {"anyOf": [one["payload"] for key, one in messages.items() if key != "message"]}
    )
    assert received
    for message in received:
        answers.validate(message)
    assert not answers.is_valid({"audio": 5})


async def test_the_page_shows_every_operation_and_socket_and_nothing_becomes_markup() -> None:
    answer = await read("/docs")
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    for text in ("POST /v1/voices/add", "WS /v1/text-to-dialogue/stream-input", "close code 1008"):
        assert text in answer.text
    page = docs_page(EVIL_OPENAPI, EVIL_ASYNCAPI, version="1")
    assert EVIL not in page
    assert page.count(html.escape(EVIL)) > 10


EVIL = "<img src=x onerror=alert(1)>\"'"
EVIL_SCHEMA = {
    "type": "object",
    "properties": {EVIL: {"type": "string", "enum": [EVIL], "description": EVIL}},
}
EVIL_OPENAPI: dict[str, Any] = {
    "info": {"description": EVIL},
    "tags": [{"name": EVIL}],
    "paths": {
        f"/{EVIL}": {
            "get": {
                "operationId": EVIL, "tags": [EVIL], "summary": EVIL,
                "parameters": [
                    {"name": EVIL, "in": "query", "schema": EVIL_SCHEMA, "description": EVIL}
                ],
                "requestBody": {"content": {EVIL: {"schema": EVIL_SCHEMA}}},
                "responses": {
                    EVIL: {"description": EVIL, "content": {EVIL: {"schema": EVIL_SCHEMA}}}
                },
            }
        }
    },
    "components": {"schemas": {EVIL: EVIL_SCHEMA}},
}  # fmt: skip
EVIL_MESSAGE = {"summary": EVIL, "payload": EVIL_SCHEMA}
EVIL_ASYNCAPI: dict[str, Any] = {
    "info": {"description": EVIL},
    "channels": {
        EVIL: {
            "address": EVIL, "description": EVIL,
            "bindings": {"ws": {"query": EVIL_SCHEMA}},
            "messages": {"message": EVIL_MESSAGE, EVIL: EVIL_MESSAGE},
        }
    },
}  # fmt: skip
