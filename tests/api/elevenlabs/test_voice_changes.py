"""Voices added, edited and deleted over HTTP: the forms of clients, and malformed ones."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from csm_trio.api import upload
from csm_trio.config import Config, SpeechConfig
from support.client_calls import GUARD_S, HI, http_client, locked
from support.fakes import SineRunner
from support.serving import TEST_SERVER, Server, serving
from support.voice_clips import BAD, FakeEncoder

FILE = ("vera.mp3", b"speech", "audio/mpeg")
FORM = {"name": "Vera", "transcript": "What she says."}
ADD = "/v1/voices/add"


@asynccontextmanager
async def uploading(
    tmp_path: Path, encoder: FakeEncoder | None = None, *, runner: SineRunner | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[Server, httpx.AsyncClient]]:  # fmt: skip
    speech = SpeechConfig(**{"data_dir": tmp_path, "voice_upload": True, **settings})
    config = Config(server=TEST_SERVER, speech=speech)
    made = runner or SineRunner()
    with trio.fail_after(GUARD_S):
        async with (
            serving(lambda: made, config, encode=encoder or FakeEncoder()) as server,
            http_client(server) as client,
        ):
            yield server, client


async def add(client: httpx.AsyncClient, **fields: Any) -> str:
    answer = await client.post(ADD, data={**FORM, **fields}, files=[("files", FILE)])
    assert answer.status_code == 200, answer.text
    return str(answer.json()["voice_id"])


@pytest.mark.usefixtures("each_topology")
async def test_add_speak_edit_delete(tmp_path: Path) -> None:
    runner = SineRunner()
    async with uploading(tmp_path, runner=runner) as (_, client):
        voice_id = await add(client, labels='{"accent": "Scottish"}', description="Calm.")
        voice = (await client.get(f"/v1/voices/{voice_id}")).json()
        assert (voice["name"], voice["category"], voice["is_owner"]) == ("Vera", "cloned", True)
        assert voice["labels"] == {"language": "en", "accent": "Scottish"}
        assert voice["description"] == "Calm."
        listed = (await client.get("/v2/voices?voice_type=personal")).json()["voices"]
        assert [one["voice_id"] for one in listed] == [voice_id]
        (sample,) = voice["samples"]
        assert (sample["file_name"], sample["transcript"]) == ("vera.mp3", "What she says.")
        audio = await client.get(f"/v1/voices/{voice_id}/samples/{sample['sample_id']}/audio")
        assert audio.headers["content-type"] == "audio/x-wav"
        assert audio.content[:4] == b"RIFF"

        assert (await client.post(f"/v1/text-to-speech/{voice_id}", json=HI)).status_code == 200
        prefix = runner.opened[-1].prefix
        assert prefix is not None
        assert [one.text for one in prefix.segments] == ["What she says."]

        plain = {"name": "Ann", "labels": "null"}
        edited = await client.post(f"/v1/voices/{voice_id}/edit", data=plain)
        assert edited.json() == {"status": "ok"}
        assert (await client.get(f"/v1/voices/{voice_id}")).json()["name"] == "Ann"
        more = [("files", ("more.wav", b"more", "audio/wav"))]
        edited = await client.post(
            f"/v1/voices/{voice_id}/edit", data={"name": "Zoe", "transcript": "More."}, files=more
        )
        assert edited.json() == {"status": "ok"}
        voice = (await client.get(f"/v1/voices/{voice_id}")).json()
        assert (voice["name"], len(voice["samples"])) == ("Zoe", 2)
        assert voice["labels"] == {"language": "en", "accent": "Scottish"}
        first = f"/v1/voices/{voice_id}/samples/{voice['samples'][0]['sample_id']}"
        assert (await client.delete(first)).json() == {"status": "ok"}
        assert (await client.delete(first)).status_code == 404

        assert (await client.delete(f"/v1/voices/{voice_id}")).json() == {"status": "ok"}
        for path in ("", "/settings", f"/samples/{sample['sample_id']}/audio"):
            gone = await client.get(f"/v1/voices/{voice_id}{path}")
            assert (gone.status_code, gone.json()["detail"]["code"]) == (404, "voice_not_found")
        speech = await client.post(f"/v1/text-to-speech/{voice_id}", json=HI)
        assert speech.status_code == 404
    assert list((tmp_path / "uploads").iterdir()) == []


@pytest.mark.usefixtures("each_topology")
async def test_speech_in_a_deleted_voice_goes_on(tmp_path: Path) -> None:
    runner = SineRunner()
    async with uploading(tmp_path, runner=runner) as (server, client):
        voice_id = await add(client)
        async with server.dial(voice_id) as ws:
            await ws.send_message(json.dumps({"text": "One sentence here. ", "flush": True}))
            while not json.loads(await ws.get_message()).get("audio"):
                pass
            assert (await client.delete(f"/v1/voices/{voice_id}")).status_code == 200
            await ws.send_message(json.dumps({"text": "Another one. "}))
            await ws.send_message(json.dumps({"text": ""}))
            while not json.loads(await ws.get_message()).get("isFinal"):
                pass
    prefixes = {one.prefix for one in runner.opened}
    assert len(prefixes) == 1
    assert prefixes != {None}


async def test_each_turn_of_a_dialogue_has_the_clips_of_its_own_voice(tmp_path: Path) -> None:
    runner = SineRunner()
    async with uploading(tmp_path, runner=runner) as (_, client):
        ann, bob = await add(client, speaker_id="1"), await add(client, speaker_id="2")
        turns = [{"text": "Hello there.", "voice_id": one} for one in (ann, bob, "default", ann)]
        answer = await client.post("/v1/text-to-dialogue", json={"inputs": turns})
        assert answer.status_code == 200
    first, second, third, fourth = (one.prefix for one in runner.opened)
    assert first is not None
    assert second is not None
    assert first.segments[0].speaker_id == 1
    assert second.segments[0].speaker_id == 2
    assert third is None
    assert fourth == first


LABELLED = {"name": "Vera", "labels": '{"transcript": "What she says.", "age": "old"}'}


@pytest.mark.parametrize(
    ("form", "field"),
    [
        (FORM, "files"),
        ({**FORM, "labels": ""}, "files"),
        (
            {**FORM, "labels": "null", "description": "", "remove_background_noise": "0"},
            "files",
        ),
        (FORM, "files[]"),
        (LABELLED, "files"),
    ],
    ids=["plain", "SillyTavern", "Python SDK", "PHP", "label"],
)
async def test_the_forms_of_clients(tmp_path: Path, form: dict[str, str], field: str) -> None:
    encoder = FakeEncoder(warnings=("It is noisy.",))
    async with uploading(tmp_path, encoder) as (_, client):
        answer = await client.post(ADD, data=form, files=[(field, FILE)])
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body.pop("voice_id")
        assert body == {"requires_verification": False, "warnings": ["It is noisy."]}
    (source,) = encoder.requests[0].voices[0].clips
    assert source.text == "What she says."


async def test_transcripts_belong_to_the_files_in_their_order(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    files = [("files", (f"{name}.wav", name.encode())) for name in "ab"]
    async with uploading(tmp_path, encoder) as (_, client):
        form = {"name": "Vera", "transcript": ["This is a.", "This is b."]}
        voice_id = (await client.post(ADD, data=form, files=files)).json()["voice_id"]
        samples = (await client.get(f"/v1/voices/{voice_id}")).json()["samples"]
    pairs = [(one["file_name"], one["transcript"]) for one in samples]
    assert pairs == [("a.wav", "This is a."), ("b.wav", "This is b.")]


def many_files(count: int) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("files", FILE)] * count


@pytest.mark.parametrize(
    ("form", "files", "status", "named"),
    [
        ({"transcript": "x"}, 1, 422, '"name"'),
        ({"name": "  ", "transcript": "x"}, 1, 422, '"name"'),
        ({**FORM, "name": "x" * 101}, 1, 422, "more than 100 "),
        ({**FORM, "description": "x" * 1001}, 1, 422, "more than 1000 "),
        ({"name": "Vera"}, 1, 422, "'transcript' once for each file"),
        ({"name": "Vera", "transcript": " "}, 1, 422, "1 files and 0 transcripts"),
        (FORM, 2, 422, "2 files and 1 transcripts"),
        ({**FORM, "labels": "{"}, 1, 422, "JSON object"),
        ({**FORM, "labels": "[]"}, 1, 422, "JSON object"),
        ({**FORM, "labels": '{"a": 1}'}, 1, 422, "strings by name"),
        ({**FORM, "labels": json.dumps({"a": "x" * 201})}, 1, 422, "strings by name"),
        ({**FORM, "labels": json.dumps({str(n): "x" for n in range(51)})}, 1, 422, "50 strings"),
        ({**FORM, "speaker_id": "-1"}, 1, 422, "speaker_id"),
        ({**FORM, "speaker_id": "one"}, 1, 422, "speaker_id"),
        ({**FORM, "transcript": ["x"] * 26}, 26, 422, "at most 25 files"),
        ({**FORM, "extra": "x" * 300_000}, 1, 422, "fields are too long"),
    ],
)  # fmt: skip
async def test_a_form_that_is_refused_names_its_field(
    tmp_path: Path, form: dict[str, Any], files: int, status: int, named: str
) -> None:
    async with uploading(tmp_path) as (_, client):
        answer = await client.post(ADD, data=form, files=many_files(files))
        assert (answer.status_code, named in answer.text) == (status, True), answer.text
        assert (await client.get("/v1/user/subscription")).json()["voice_slots_used"] == 5
    assert list((tmp_path / "uploads").iterdir()) == []


async def test_a_form_without_files_needs_some(tmp_path: Path) -> None:
    async with uploading(tmp_path) as (_, client):
        answer = await client.post(ADD, files={"name": (None, "Vera")})
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", "files"]


async def test_a_file_without_sound_is_refused_and_a_longer_one_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "MAX_FILE_BYTES", 1 << 20)
    async with uploading(tmp_path) as (_, client):
        answer = await client.post(ADD, data=FORM, files=[("files", ("a.wav", BAD))])
        assert (answer.status_code, "no audio" in answer.text) == (422, True)
        large = [("files", ("a.wav", bytes((1 << 20) + 1)))]
        answer = await client.post(ADD, data=FORM, files=large)
        assert (answer.status_code, "at most 1 MB" in answer.text) == (422, True)


BOUNDARY = "multipart/form-data; boundary=b"
PART = b"--b\r\nContent-Disposition: form-data; name="


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("application/x-www-form-urlencoded", b"name=Vera&transcript=x", 422),
        ("application/x-www-form-urlencoded", b"name=" + b"x" * 300_000, 422),
        ("multipart/form-data", b"--b--\r\n", 422),
        ("multipart/form-data; boundary=\xc3\xa9".encode().decode("latin-1"), b"--b--\r\n", 422),
        (BOUNDARY, b"", 422),
        (BOUNDARY, b"--b\r\nno header", 422),
        (BOUNDARY, PART + b'"files"; filename="a"\r\n\r\nx', 422),
        (BOUNDARY, PART + b'"name"\r\n\r\n\xff\xfe\r\n--b--', 422),
        (BOUNDARY, b"--b--\r\n", 422),
        (BOUNDARY, b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", 422),
        (BOUNDARY, PART + b'""; filename=""\r\n\r\nx\r\n--b--\r\n', 422),
        (BOUNDARY, b"--b\r\n" + b"x" * 100_000, 422),
    ],
)  # fmt: skip
async def test_a_malformed_form_is_refused(
    tmp_path: Path, content_type: str, body: bytes, status: int
) -> None:
    async with uploading(tmp_path) as (_, client):
        headers = [(b"content-type", content_type.encode("latin-1"))]
        answer = await client.post(ADD, content=body, headers=headers)
        assert answer.status_code == status, answer.text
        assert (await client.get("/healthz")).status_code == 200
    assert list((tmp_path / "uploads").iterdir()) == []


async def test_a_file_name_is_no_path(tmp_path: Path) -> None:
    async with uploading(tmp_path) as (_, client):
        files = [("files", ("../../../etc/passwd", b"speech"))]
        voice_id = (await client.post(ADD, data=FORM, files=files)).json()["voice_id"]
        samples = (await client.get(f"/v1/voices/{voice_id}")).json()["samples"]
    assert [one["file_name"] for one in samples] == ["passwd"]


async def test_the_limits_of_voices_and_of_uploads_at_once(tmp_path: Path) -> None:
    encoder = FakeEncoder(gate=trio.Event())
    assert encoder.gate is not None
    async with uploading(tmp_path, encoder, max_voices=2) as (_, client):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(add, client)
            nursery.start_soon(add, client)
            await encoder.begun.wait()
            answers: list[httpx.Response] = []
            while not answers or answers[-1].status_code == 400:
                answers.append(await client.post(ADD, data=FORM, files=[("files", FILE)]))
                if answers[-1].status_code == 400:
                    assert answers[-1].json()["detail"]["code"] == "voice_limit_reached"
                    break
            assert answers[-1].status_code in (400, 429)
            encoder.gate.set()
        answer = await client.post(ADD, data=FORM, files=[("files", FILE)])
        assert (answer.status_code, answer.json()["detail"]["code"]) == (400, "voice_limit_reached")
        account = (await client.get("/v1/user/subscription")).json()
        assert (account["voice_slots_used"], account["voice_limit"]) == (7, 7)
        assert account["can_use_instant_voice_cloning"] is True


async def test_a_hang_up_during_an_upload_leaves_no_file(tmp_path: Path) -> None:
    encoder = FakeEncoder(gate=trio.Event())
    async with uploading(tmp_path, encoder) as (server, client):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(add, client)
            await encoder.begun.wait()
            assert len(list((tmp_path / "uploads").iterdir())) == 1
            nursery.cancel_scope.cancel()
        async with http_client(server) as other:
            while list((tmp_path / "uploads").iterdir()):
                await other.get("/healthz")
            assert (await other.get("/v1/user/subscription")).json()["voice_slots_used"] == 5
    assert list((tmp_path / "voices").iterdir()) == []


Attempt = Callable[[httpx.AsyncClient], Any]
CHANGES: dict[str, Attempt] = {
    "add": lambda client: client.post(ADD, data=FORM, files=[("files", FILE)]),
    "edit": lambda client: client.post("/v1/voices/default/edit", files={"name": (None, "x")}),
    "delete": lambda client: client.delete("/v1/voices/default"),
    "sample": lambda client: client.delete("/v1/voices/default/samples/x"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
async def test_without_the_flag_voices_stay_as_they_are(tmp_path: Path, change: Attempt) -> None:
    async with uploading(tmp_path, voice_upload=False) as (_, client):
        answer = await change(client)
        assert answer.status_code == 403
        assert "--allow-voice-upload" in answer.json()["detail"]["message"]


async def test_voices_of_the_voices_file_cannot_be_changed(tmp_path: Path) -> None:
    async with uploading(tmp_path) as (_, client):
        for attempt, status in (("edit", 403), ("delete", 403), ("sample", 404)):
            assert (await CHANGES[attempt](client)).status_code == status
        assert (await client.delete("/v1/voices/nobody")).status_code == 404
        nobody = await client.post("/v1/voices/nobody/edit", files={"name": (None, "x")})
        assert nobody.status_code == 404


async def test_a_page_of_another_site_changes_nothing_on_a_server_without_a_key(
    tmp_path: Path,
) -> None:
    """A form is posted across sites without a preflight (the Fetch standard, CORS-safelisted)."""
    async with uploading(tmp_path) as (server, client):
        for origin, status in (
            ("https://evil.example", 403),
            ("null", 403),
            (f"http://127.0.0.1:{server.port}", 200),
        ):
            answer = await client.post(
                ADD, data=FORM, files=[("files", FILE)], headers={"origin": origin}
            )
            assert answer.status_code == status, origin


async def test_an_upload_needs_the_key_before_its_body(tmp_path: Path) -> None:
    speech = SpeechConfig(data_dir=tmp_path, voice_upload=True)
    config = Config(server=locked(), speech=speech)
    with trio.fail_after(GUARD_S):
        async with (
            serving(SineRunner, config, encode=FakeEncoder()) as server,
            http_client(server) as client,
        ):
            answer = await client.post(ADD, data=FORM, files=[("files", FILE)])
            assert answer.status_code == 401
    assert list((tmp_path / "uploads").iterdir()) == []
