"""ElevenLabs' endpoints beside speech: voices, settings, models, the account, tokens."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from csm_trio.api import auth
from csm_trio.api.auth import TOKEN_LIFE_S, SingleUseTokens
from csm_trio.config import SpeechConfig
from support.client_calls import (
    HI,
    KEY,
    SPEECH,
    detail_of,
    http_client,
    locked,
    receive_all,
    running_server,
    send,
    ways_to_present,
)
from support.fakes import SineRunner
from support.serving import TEST_SERVER, Server, serving

VENDOR = {"xi-api-key": "any"}
DEFAULTS = {
    "stability": 0.5,
    "similarity_boost": 0.75,
    "style": 0.0,
    "use_speaker_boost": True,
    "speed": 1.0,
}
IDS = ["default", "speaker_0", "speaker_1", "speaker_2", "speaker_3"]


async def read(server: Server, path: str, **headers: str) -> Any:
    async with http_client(server) as client:
        answer = await client.get(path, headers={**VENDOR, **headers})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


async def test_the_voices_of_all_three_lists_are_the_same() -> None:
    async with running_server() as server:
        listed = (await read(server, "/v1/voices"))["voices"]
        assert [voice["voice_id"] for voice in listed] == IDS
        assert [await read(server, f"/v1/voices/{voice_id}") for voice_id in IDS] == listed
        first = await read(server, "/v2/voices?page_size=3")
        assert (first["has_more"], first["total_count"]) == (True, 5)
        token = first["next_page_token"]
        second = await read(server, f"/v2/voices?page_size=3&next_page_token={token}")
        assert (second["has_more"], second["next_page_token"]) == (False, None)
        assert first["voices"] + second["voices"] == listed
        named = await read(server, "/v2/voices?voice_ids=default&voice_ids=speaker_3")
        assert [voice["voice_id"] for voice in named["voices"]] == ["default", "speaker_3"]


async def test_an_unlisted_numbered_voice_can_be_shown() -> None:
    async with running_server() as server:
        assert (await read(server, "/v1/voices/17"))["voice_id"] == "17"
        assert await read(server, "/v1/voices/17/settings") == DEFAULTS


async def test_an_alias_shows_the_voice_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "voices.json"
    path.write_text(json.dumps({"zoe": {"speaker_id": 5, "aliases": ["21m00Tcm4TlvDq8ikWAM"]}}))
    async with running_server(speech=SpeechConfig(voices_file=path)) as server:
        assert (await read(server, "/v1/voices/21m00Tcm4TlvDq8ikWAM"))["voice_id"] == "zoe"


async def test_edited_voice_settings_are_the_default_of_later_requests() -> None:
    runner = SineRunner()
    async with serving(lambda: runner) as server, http_client(server) as client:
        assert await read(server, "/v1/voices/settings/default") == DEFAULTS
        for change in ({"stability": 1.0}, {"style": 0.5, "stability": None}):
            answer = await client.post("/v1/voices/default/settings/edit", json=change)
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        now = {**DEFAULTS, "stability": 1.0, "style": 0.5}
        assert await read(server, "/v1/voices/default/settings") == now
        assert (await read(server, "/v1/voices/default"))["settings"] == now
        assert await read(server, "/v1/voices/speaker_1/settings") == DEFAULTS
        await client.post(SPEECH, json=HI)
        await client.post(SPEECH, json={**HI, "voice_settings": {"stability": 0.5}})
        await client.post("/v1/text-to-speech/speaker_1", json=HI)
        async with server.dial() as ws:
            await send(ws, HI, {"text": ""})
            await receive_all(ws)
    assert [one.sampling.temperature_scale for one in runner.opened] == [0.5, 1.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("voice", "body", "status", "named"),
    [
        ("default", {"stability": 2}, 422, "stability"),
        ("default", {"use_speaker_boost": "yes"}, 422, "use_speaker_boost"),
        ("nobody", {}, 404, "nobody"),
        ("17", {}, 403, "listed"),
    ],
)
async def test_a_refused_edit_of_voice_settings_names_the_reason(
    voice: str, body: dict[str, Any], status: int, named: str
) -> None:
    async with running_server() as server, http_client(server) as client:
        answer = await client.post(f"/v1/voices/{voice}/settings/edit", json=body)
        assert answer.status_code == status
        assert named in answer.text
        assert await read(server, "/v1/voices/default/settings") == DEFAULTS


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/voices/add"),
        ("POST", "/v1/voices/pvc"),
        ("POST", "/v1/voices/default/edit"),
        ("DELETE", "/v1/voices/default"),
    ],
)
async def test_voices_cannot_be_added_edited_or_deleted(method: str, path: str) -> None:
    form = {"name": "Zoe", "labels": "null"}
    async with running_server() as server, http_client(server) as client:
        answer = await client.request(
            method, path, data=form, files={"files": ("a.wav", bytes(200_000))}
        )
        assert answer.status_code == 403
        detail = detail_of(answer)
        assert detail["status"] == "feature_not_available"
        assert "--voices-file" in detail["message"] or path.endswith("pvc")
        assert [voice["voice_id"] for voice in (await read(server, "/v1/voices"))["voices"]] == IDS


@pytest.mark.parametrize("path", ["/v1/voices/nobody", "/v1/voices/nobody/settings"])
async def test_an_unknown_voice_is_named(path: str) -> None:
    async with running_server() as server, http_client(server) as client:
        answer = await client.get(path)
    assert answer.status_code == 404
    assert detail_of(answer)["status"] == "voice_not_found"


async def test_the_key_header_selects_the_convention_of_the_model_list() -> None:
    async with running_server() as server:
        elevenlabs_list = await read(server, "/v1/models")
        assert {model["model_id"] for model in elevenlabs_list} >= {"eleven_multilingual_v2"}
        async with http_client(server) as client:
            for headers in ({}, {"authorization": "Bearer any"}):
                openai_list = (await client.get("/v1/models", headers=headers)).json()
                assert openai_list["object"] == "list"
                assert {model["object"] for model in openai_list["data"]} == {"model"}


async def test_an_unknown_model_is_refused_in_the_clients_convention() -> None:
    async with running_server() as server, http_client(server) as client:
        answer = await client.get("/v1/models/gpt-4", headers=VENDOR)
        assert answer.status_code == 404
        assert detail_of(answer)["status"] == "model_not_found"
        assert "error" in (await client.get("/v1/models/gpt-4")).json()


async def test_the_account_has_no_limits_and_no_history() -> None:
    async with running_server() as server:
        user = await read(server, "/v1/user")
        subscription = await read(server, "/v1/user/subscription")
        assert user["subscription"].items() <= subscription.items()
        assert subscription["status"] == "active"
        assert await read(server, "/v1/history?page_size=100") == {
            "history": [],
            "has_more": False,
            "last_history_item_id": None,
        }


LISTS = ["/v1/voices", "/v2/voices", "/v1/voices/default", "/v1/voices/settings/default",
         "/v1/voices/default/settings", "/v1/models", "/v1/user", "/v1/user/subscription",
         "/v1/history"]  # fmt: skip


async def test_the_lists_need_the_key() -> None:
    async with running_server(locked()) as server, http_client(server) as client:
        for path in LISTS:
            assert (await client.get(path)).status_code == 401
            assert (await client.get(path, headers=VENDOR)).status_code == 401
            for query, headers in ways_to_present(KEY):
                assert (await client.get(path + query, headers=headers)).status_code == 200


@pytest.mark.usefixtures("short_error_to_close")
@pytest.mark.parametrize("parameter", ["single_use_token", "authorization"])
async def test_a_token_authenticates_one_socket(parameter: str) -> None:
    async with running_server(locked()) as server, http_client(server) as client:
        answer = await client.post(
            "/v1/single-use-token/tts_websocket", headers={"xi-api-key": KEY}
        )
        token = answer.json()["token"]
        assert (await client.get("/v1/user", headers={"xi-api-key": token})).status_code == 401
        for code in (1000, 1008):
            async with server.dial(**{parameter: token}) as ws:
                await send(ws, HI, {"text": ""})
                received, closed = await receive_all(ws)
            assert closed == code
        assert received[-1]["error"] == "invalid_api_key"


async def test_a_socket_takes_the_key_as_a_token_parameter_and_any_value_without_a_key() -> None:
    async with running_server(locked()) as server, server.dial(authorization=f"Bearer {KEY}") as ws:
        await send(ws, HI, {"text": ""})
        assert (await receive_all(ws))[1] == 1000
    async with running_server() as server, server.dial(single_use_token="any") as ws:
        await send(ws, HI, {"text": ""})
        assert (await receive_all(ws))[1] == 1000


async def test_tokens_need_the_key_and_are_for_speech_sockets_only() -> None:
    async with running_server(locked()) as server, http_client(server) as client:
        path = "/v1/single-use-token/tts_websocket"
        assert (await client.post(path)).status_code == 401
        answer = await client.post(
            "/v1/single-use-token/realtime_scribe", headers={"xi-api-key": KEY}
        )
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["path", "token_type"]


async def test_a_token_is_valid_once_and_expires(autojump_clock: MockClock) -> None:
    issued = SingleUseTokens()
    early, late = issued.issue(b"one"), issued.issue(b"other")
    assert early != late
    assert issued.redeem(early) == b"one"
    assert issued.redeem(early) is None
    autojump_clock.jump(TOKEN_LIFE_S)
    assert issued.redeem(late) is None
    assert issued.redeem("made up") is None


async def test_unredeemed_tokens_are_evicted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auth, "MAX_TOKENS", 3)
    issued = SingleUseTokens()
    handed_out = [issued.issue(b"key") for _ in range(5)]
    assert [issued.redeem(token) for token in handed_out] == [None, None, *[b"key"] * 3]


async def test_lists_are_answered_while_every_session_is_in_use() -> None:
    async with running_server(replace(TEST_SERVER, max_sessions=1)) as server, server.dial():
        assert len((await read(server, "/v1/voices"))["voices"]) == 5


EDIT = "/v1/voices/default/settings/edit"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_an_edit_must_be_declared_as_json(content_type: str) -> None:
    async with running_server() as server, http_client(server) as client:
        headers = {"content-type": content_type} if content_type else {}
        answer = await client.post(EDIT, content=b'{"stability": 0.1}', headers=headers)
        assert answer.status_code == 415
        assert detail_of(answer)["code"] == "unsupported_media_type"
        settings = (await client.get("/v1/voices/default/settings")).json()
        assert settings["stability"] != 0.1


@pytest.mark.parametrize("has_key", [False, True])
async def test_pages_of_other_origins_may_not_edit_a_server_without_a_key(has_key: bool) -> None:
    config = locked() if has_key else TEST_SERVER
    asking = {"origin": "https://elsewhere.example", "access-control-request-method": "POST"}
    async with running_server(config) as server, http_client(server) as client:
        edit = await client.options(EDIT, headers=asking)
        speech = await client.options("/v1/text-to-speech/default", headers=asking)
    assert ("access-control-allow-origin" in edit.headers) == has_key
    assert speech.headers["access-control-allow-origin"] == "*"
