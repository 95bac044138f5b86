"""Messages of real sockets are those that the AsyncAPI document has."""

import json
from typing import Any

import httpx
import jsonschema
import pytest

from support.client_calls import http_client, receive_all, running_server, send
from support.serving import Server

SAID = {"text": "Hi there. ", "flush": True}
TURN = {"inputs": [{"voice_id": "speaker_0", "text": "Hi there."}], "flush": True}
CONVERSATIONS: dict[str, tuple[str, list[dict[str, Any]], set[str]]] = {
    "sockets_stream_input": (
        "text-to-speech/{voice}/stream-input",
        [SAID, {"clear": True}, SAID, {"text": ""}],
        {"audio", "cleared", "end"},
    ),
    "sockets_multi_stream_input": (
        "text-to-speech/{voice}/multi-stream-input",
        [{**SAID, "context_id": "a"}, {**SAID}, {"close_socket": True}],
        {"audio", "end"},
    ),
    "sockets_dialogue": (
        "text-to-dialogue/stream-input",
        [{"voices": ["speaker_0"]}, TURN, {"close_socket": True}],
        {"audio", "end_of_turn", "end"},
    ),
    "sockets_multi_dialogue": (
        "text-to-dialogue/multi-stream-input",
        [
            {"voices": ["speaker_0"], "context_id": "a"},
            {**TURN, "context_id": "a"},
            {"close_socket": True},
        ],
        {"audio", "end_of_turn", "end"},
    ),
}


async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.get("/asyncapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.usefixtures("short_error_to_close")
async def test_messages_are_as_documented() -> None:
    async with running_server() as running, http_client(running) as client:
        found = await document(client)
        for name, (endpoint, messages, expected) in CONVERSATIONS.items():
            channel = found["channels"][name]["messages"]
            for message in messages:
                jsonschema.validate(message, channel["message"]["payload"])
            seen = await kinds_received(running, endpoint, messages, channel)
            assert seen == expected, name
            wrong = {**messages[0], "seed": -1}
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(wrong, channel["message"]["payload"])
            assert await kinds_received(running, endpoint, [wrong], channel) == {"error"}


async def kinds_received(
    server: Server, endpoint: str, messages: list[dict[str, Any]], channel: dict[str, Any]
) -> set[str]:
    """Return the documented names of what a socket answers; each message must have just one."""
    async with server.dial(endpoint=endpoint) as ws:
        await send(ws, *messages)
        received, _ = await receive_all(ws)
    return {name for message in received for name in kinds_of(message, channel)}


def kinds_of(message: dict[str, Any], channel: dict[str, Any]) -> list[str]:
    schemas = {name: one["payload"] for name, one in channel.items() if name != "message"}
    # Audio and the end have the same members on a speech socket, with other values.
    fits = [
        name
        for name, schema in schemas.items()
        if jsonschema.Draft202012Validator(schema).is_valid(message)
        and message.keys() == schema["properties"].keys() & message.keys()
    ]
    assert len(fits) == 1, (json.dumps(message)[:300], fits)
    return fits
