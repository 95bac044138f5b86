"""Answers of a real server are those that the OpenAPI document has."""

import json
from typing import Any

import httpx
import jsonschema
import pytest

from support.client_calls import HI, KEY, SPEECH, http_client, locked, running_server
from support.serving import TEST_SERVER, Topology


async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-cache"
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.usefixtures("each_topology")
async def test_the_document_tells_which_operations_need_the_key() -> None:
    async with running_server(locked()) as running, http_client(running) as client:
        found = await document(client)
        for path, methods in found["paths"].items():
            for method, operation in methods.items():
                url = path.replace("{", "").replace("}", "")
                answer = await client.request(method, url)
                needs_key = "security" in operation
                assert (answer.status_code == 401) == needs_key, path
                assert ("401" in operation["responses"]) == needs_key
        bodies = (await client.get("/v1/voices", headers={"xi-api-key": KEY})).json()
    assert bodies["voices"]


FORM = {"content-type": "multipart/form-data; boundary=a"}
PROVOKED: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "wrong field": ("/v1/text-to-speech/{voice_id}", SPEECH, {"json": {**HI, "seed": -1}}, 422),
    "no text": ("/v1/text-to-speech/{voice_id}/stream", f"{SPEECH}/stream", {"json": {}}, 422),
    "long text": ("/v1/text-to-speech/{voice_id}", SPEECH, {"json": {"text": "a" * 100_000}}, 413),
    "long body": (
        "/v1/text-to-dialogue",
        "/v1/text-to-dialogue",
        {"content": b" " * (2 << 20)},
        413,
    ),
    "voice": (
        "/v1/text-to-speech/{voice_id}/with-timestamps",
        "/v1/text-to-speech/none/with-timestamps",
        {"json": HI},
        404,
    ),
    "format": (
        "/v1/text-to-speech/{voice_id}",
        f"{SPEECH}?output_format=x",
        {"json": HI},
        403,
    ),
    "media type": (
        "/v1/voices/{voice_id}/settings/edit",
        "/v1/voices/default/settings/edit",
        {"content": b"{}"},
        415,
    ),
    "upload": ("/v1/voices/add", "/v1/voices/add", {"content": b"", "headers": FORM}, 403),
    "professional": ("/v1/voices/pvc", "/v1/voices/pvc", {}, 403),
    "token": ("/v1/single-use-token/{purpose}", "/v1/single-use-token/other", {}, 422),
    "openai field": ("/v1/audio/speech", "/v1/audio/speech", {"json": {"input": 1}}, 400),
    "openai body": ("/v1/audio/speech", "/v1/audio/speech", {"content": b" " * (2 << 20)}, 413),
}


async def test_errors_are_answered_as_documented() -> None:
    async with running_server() as running, http_client(running) as client:
        found = await document(client)
        answers = {
            kind: await client.post(url, **request)
            for kind, (_, url, request, _) in PROVOKED.items()
        }
    for kind, (path, _, _, status) in PROVOKED.items():
        answer = answers[kind]
        assert answer.status_code == status, kind
        documented = found["paths"][path]["post"]["responses"][str(status)]
        schema = documented["content"]["application/json"]["schema"]
        assert_valid(answer.json(), {**schema, "components": found["components"]})


async def test_every_speech_operation_may_be_refused_for_want_of_a_session() -> None:
    async with running_server() as running, http_client(running) as client:
        found = await document(client)
    speech = [
        methods["post"]["responses"]
        for path, methods in found["paths"].items()
        if path.startswith(("/v1/text-to-", "/v1/audio/speech"))
    ]
    assert len(speech) == 9
    for responses in speech:
        for status in ("429", "503"):
            assert "Retry-After" in responses[status]["headers"]


async def test_an_unknown_model_is_documented_in_both_forms() -> None:
    async with running_server() as running, http_client(running) as client:
        found = await document(client)
        answers = [
            await client.get("/v1/models/none", headers=headers)
            for headers in ({}, {"xi-api-key": "a"})
        ]
    schema = found["paths"]["/v1/models/{model}"]["get"]["responses"]["404"]["content"]
    for answer in answers:
        assert answer.status_code == 404
        whole = {**schema["application/json"]["schema"], "components": found["components"]}
        assert_valid(answer.json(), whole)


async def test_every_line_with_timestamps_is_as_documented() -> None:
    body = {"text": "Hi there.", "inputs": [{"voice_id": "speaker_0", "text": "Hi there."}]}
    async with running_server() as running, http_client(running) as client:
        found = await document(client)
        for path in ("text-to-speech/{voice_id}", "text-to-dialogue"):
            route = f"/v1/{path}/stream/with-timestamps"
            content = found["paths"][route]["post"]["responses"]["200"]["content"]
            for accept in content:
                url = route.format(voice_id="default")
                answer = await client.post(url, json=body, headers={"accept": accept})
                schema = content[accept]["schema"]
                text = schema["properties"]["data"] if "properties" in schema else schema
                lines = [line.removeprefix("data: ") for line in answer.text.split("\n") if line]
                assert lines
                for line in lines:
                    assert_valid(json.loads(line), text["contentSchema"])


def assert_valid(value: object, schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema).validate(value)


async def test_examples_work(each_topology: Topology) -> None:
    async with running_server(TEST_SERVER) as running, http_client(running) as client:
        found = await document(client)
        for path, methods in found["paths"].items():
            body = methods.get("post", {}).get("requestBody", {}).get("content", {})
            if "application/json" not in body or "example" not in body["application/json"]:
                continue
            url = path.replace("{voice_id}", "default")
            answer = await client.post(url, json=body["application/json"]["example"])
            assert answer.status_code == 200, path
            assert path.endswith("/edit") or answer.headers["character-cost"]
