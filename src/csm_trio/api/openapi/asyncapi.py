"""The AsyncAPI 3.0 document of the sockets, from their routes and descriptions.

https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version

from werkzeug.routing import Rule

from csm_trio.api.openapi.document import PARAMETER, PATH_FIELDS, Json
from csm_trio.api.openapi.operation import Socket
from csm_trio.protocol.described import Field, Schema, object_schema, query_schema
from csm_trio.protocol.elevenlabs.errors import socket_errors
from csm_trio.protocol.fields import KEY_FIELDS

_JSON = "application/json"
CLIENT_MESSAGE = "message"
"""Name of what the client sends, among the messages of a channel."""
_KEY_PARAMETERS = (*KEY_FIELDS, "authorization", "single_use_token")


def asyncapi_document(
    rules: Iterable[Rule], sockets: Mapping[str, Socket], summaries: Mapping[str, str]
) -> Json:
    """Return the document of the sockets among `rules`; `summaries` are by endpoint.

    Raises KeyError for a socket without a description.
    """
    found = [(rule, sockets[rule.endpoint]) for rule in rules if rule.websocket]
    operations: Json = {}
    for rule, socket in found:
        operations |= _operations(rule, summaries[rule.endpoint], socket)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "csm-trio",
            "version": version("csm-trio"),
            "description": f"Text messages in JSON. {_errors()}",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": _JSON,
        "channels": {
            _name(rule): _channel(rule, summaries[rule.endpoint], socket) for rule, socket in found
        },
        "operations": operations,
    }


def _name(rule: Rule) -> str:
    return str(rule.endpoint).replace(".", "_")


def _channel(rule: Rule, summary: str, socket: Socket) -> Json:
    channel: Json = {
        "address": PARAMETER.sub(r"{\1}", rule.rule),
        "description": summary,
        "messages": {
            CLIENT_MESSAGE: _message("What the client sends.", object_schema(socket.message)),
            **{_key(name): _message(name, schema) for name, schema in socket.answers.items()},
        },
        "bindings": {"ws": {"method": "GET", "query": _query_schema(socket.query)}},
    }
    names = PARAMETER.findall(rule.rule)
    if names:
        channel["parameters"] = {name: {"description": PATH_FIELDS[name]} for name in names}
    return channel


def _query_schema(query: Sequence[Field]) -> Schema:
    properties: dict[str, object] = {
        field.name: {**query_schema(field), "description": field.about} for field in query
    }
    for name in _KEY_PARAMETERS:
        properties[name] = {"type": "string", "description": "The key, where no header has it."}
    return {"type": "object", "properties": properties}


def _message(about: str, payload: Schema) -> Json:
    return {"summary": about, "contentType": _JSON, "payload": payload}


def _operations(rule: Rule, summary: str, socket: Socket) -> Json:
    channel = _name(rule)

    def operation(action: str, names: Sequence[str]) -> Json:
        reference = f"#/channels/{channel}"
        return {
            "action": action,
            "channel": {"$ref": reference},
            "summary": summary,
            "messages": [{"$ref": f"{reference}/messages/{name}"} for name in names],
        }

    # From the server's point of view: it receives what the client sends.
    return {
        f"{channel}_receive": operation("receive", [CLIENT_MESSAGE]),
        f"{channel}_send": operation("send", [_key(name) for name in socket.answers]),
    }


def _key(name: str) -> str:
    return name.replace(" ", "_")


def _errors() -> str:
    """Return a sentence of what errors there are."""
    names = [f"{name} (close code {code})" for name, code in socket_errors().items()]
    return f"An error is a message, and then a close: {', '.join(names)}."
