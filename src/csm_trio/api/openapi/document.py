"""The OpenAPI 3.1 document, from the application's routes and their operations."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from werkzeug.routing import Rule

from csm_trio.api.openapi.operation import FORM, LINK_FORM, Answer, ErrorForm, Operation
from csm_trio.api.openapi.sample_schema import schema_of_samples
from csm_trio.api.responses import SPEECH_HEADERS
from csm_trio.errors import EngineBusy, InvalidRequest, SpeechError, Unauthorized, UnknownVoice
from csm_trio.protocol.described import Field, Schema, object_schema, query_schema
from csm_trio.protocol.elevenlabs.errors import http_error_body, rest_error, rest_status
from csm_trio.protocol.elevenlabs.voice_form import FILES
from csm_trio.protocol.openai import error_body, openai_error, openai_status

Json = dict[str, Any]

PAGES = frozenset(
    {"playground.page", "playground.file", "descriptions.docs", "descriptions.docs_file"}
)
"""Endpoints for people, which are not part of the API."""

PARAMETER = re.compile(r"<(?:path:)?(\w+)>")
_METHODS = ("get", "post", "delete")
# The connection itself answers 400, 431, 501 and 505, before there is a route.
_EVERYWHERE = (400, 405, 413, 431, 500, 501, 505)
_WITH_BODY = (408,)
PATH_FIELDS = {
    "voice_id": "The id of a voice, or a speaker id.",
    "sample_id": "The id of a voice's sample.",
    "purpose": "What the token is for.",
    "model": "The name of a model.",
}
_EXAMPLES = {"voice_id": "default", "model": "tts-1"}
_RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
_REQUEST_ID = {"request-id": {"schema": {"type": "string"}, "description": "Named in the log."}}
_SECURITY: list[dict[str, list[str]]] = [{"key": []}, {"bearer": []}, {"query": []}]


def openapi_document(
    rules: Iterable[Rule],
    operations: Mapping[str, Operation],
    summaries: Mapping[str, str],
    *,
    has_key: bool,
) -> Json:
    """Return the document of the HTTP routes among `rules`; `summaries` are by endpoint.

    Raises KeyError for a route without an operation.
    """
    paths: dict[str, Json] = {}
    for rule in rules:
        if rule.websocket or rule.endpoint in PAGES:
            continue
        path = PARAMETER.sub(r"{\1}", rule.rule)
        for method in sorted((rule.methods or set()) & {name.upper() for name in _METHODS}):
            operation = operations[rule.endpoint]
            paths.setdefault(path, {})[method.lower()] = _operation(
                rule, operation, f"{rule.endpoint}{'_legacy' * (rule.rule == '/health')}", has_key
            ) | {"summary": summaries[rule.endpoint]}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "csm-trio",
            "version": version("csm-trio"),
            "description": "Text-to-speech with CSM-1B behind ElevenLabs' and OpenAI's protocols.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "."}],
        "tags": [{"name": tag} for tag in dict.fromkeys(one.tag for one in operations.values())],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": _error_schemas(),
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "xi-api-key"},
                "bearer": {"type": "http", "scheme": "bearer"},
                "query": {"type": "apiKey", "in": "query", "name": "xi-api-key"},
            },
        },
    }


def _operation(rule: Rule, operation: Operation, operation_id: str, has_key: bool) -> Json:
    parameters = [
        *(_path_parameter(name, operation) for name in PARAMETER.findall(rule.rule)),
        *(_query_parameter(field) for field in operation.query),
    ]
    described: Json = {
        "operationId": operation_id.replace(".", "_"),
        "tags": [operation.tag],
        "responses": dict(sorted(_responses(operation, has_key).items())),
        "parameters": parameters,
    }
    if operation.body:
        described["requestBody"] = _body(operation)
    if has_key and not operation.keyless:
        described["security"] = _SECURITY
    return described


def _path_parameter(name: str, operation: Operation) -> Json:
    values = (operation.path_values or {}).get(name)
    schema: Schema = {"type": "string"}
    if values:
        schema["enum"] = list(values)
    elif name in _EXAMPLES:
        schema["examples"] = [_EXAMPLES[name]]
    return {
        "name": name, "in": "path", "required": True, "schema": schema,
        "description": PATH_FIELDS[name],
    }  # fmt: skip


def _query_parameter(field: Field) -> Json:
    return {
        "name": field.name, "in": "query", "required": field.required,
        "schema": query_schema(field), "description": field.about,
    }  # fmt: skip


def _body(operation: Operation) -> Json:
    json = operation.body_type == "application/json"
    content: Json = {"schema": object_schema(operation.body, nullable=json)}
    if operation.example is not None:
        content["example"] = dict(operation.example)
    contents = {operation.body_type: content, **_link_form(operation)}
    return {"required": operation.body_required, "content": contents}


def _link_form(operation: Operation) -> Json:
    """Return a form without files, in the other way in which it may come."""
    if operation.body_type != FORM or any(field.required for field in operation.body):
        return {}
    texts = [field for field in operation.body if field.name != FILES.name]
    return {LINK_FORM: {"schema": object_schema(texts, nullable=False)}}


def _responses(operation: Operation, has_key: bool) -> dict[str, Json]:
    responses = {str(answer.status): _answer(answer) for answer in operation.answers}
    openai = operation.error_form == "openai"
    status_of: Callable[[type[SpeechError]], int] = openai_status if openai else rest_status
    body_errors = _WITH_BODY if operation.body else ()
    errors = (*operation.errors, *((Unauthorized,) if has_key and not operation.keyless else ()))
    about: dict[int, list[str]] = {}
    for kind in errors:
        about.setdefault(status_of(kind), []).append(_about(kind))
    for status in (*_EVERYWHERE, *body_errors, *operation.http_errors):
        about.setdefault(status, []).append(f"{HTTPStatus(status).phrase}.")
    for status, sentences in about.items():
        retry = any(kind.retry_after_s is not None for kind in errors if status_of(kind) == status)
        responses[str(status)] = {
            "description": " ".join(dict.fromkeys(sentences)),
            "content": {
                "application/json": {"schema": _error_schema(status, operation.error_form)}
            },
            "headers": {**_REQUEST_ID, **(_RETRY_AFTER if retry else {})},
        }
    return responses


def _about(kind: type[SpeechError]) -> str:
    return " ".join((kind.__doc__ or kind.__name__).split("\n\n")[0].split())


def _answer(answer: Answer) -> Json:
    headers = dict(_REQUEST_ID)
    if answer.speech:
        headers |= {
            name: {"schema": {"type": "string"}, "description": "As ElevenLabs sends it."}
            for name in SPEECH_HEADERS
        }
    content = {media: {"schema": schema} for media, schema in answer.content.items()}
    return {"description": answer.about, "content": content, "headers": headers}


def _error_schema(status: int, form: ErrorForm) -> Schema:
    names = []
    # The connection knows no endpoint, and so no other form.
    if form != "openai" or status in (400, 431, 501, 505):
        names.append("FieldErrors" if status == 422 else "Error")
    if form != "elevenlabs":
        names.append("OpenAIError")
    schemas: list[Schema] = [{"$ref": f"#/components/schemas/{name}"} for name in names]
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _error_schemas() -> dict[str, Schema]:
    wrong = InvalidRequest("Text.", param="text")
    whole = InvalidRequest("Text.", param="body")
    return {
        "Error": schema_of_samples(*_error_bodies()),
        "FieldErrors": schema_of_samples(
            *(rest_error(one, request_id="id").body for one in (wrong, whole))
        ),
        "OpenAIError": schema_of_samples(
            openai_error(wrong).body, openai_error(EngineBusy()).body,
            openai_error(Unauthorized()).body, error_body("Text.", "server_error"),
        ),
    }  # fmt: skip


def _error_bodies() -> Iterator[Json]:
    yield rest_error(EngineBusy(), request_id="id").body
    yield rest_error(UnknownVoice("id"), request_id="id").body
    yield http_error_body(405, "Method Not Allowed", "Text.", request_id="id")
    yield http_error_body(405, "Method Not Allowed", None, request_id="id")
