"""The playground over HTTP: its headers, its files, and that it can be switched off."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from csm_trio.api.page_files import version_of
from csm_trio.api.playground import pages
from csm_trio.audio.formats import FORMATS
from csm_trio.config import ServerConfig
from support.client_calls import detail_of, http_client, locked, running_server
from support.serving import TEST_SERVER

FOLDER = Path(pages.__file__).parent
ROOT = Path(__file__).parents[3]
SCRIPTS = sorted(FOLDER.glob("*.js"))
OTHER_FILES = [FOLDER / name for name in ("index.html", "style.css", "icon.svg")]
ELSEWHERE = re.compile(r"(?:src|href)=\"(?:https?:)?//|@import|[^:]\burl\(")
MARKUP = re.compile(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(")
STORAGE = re.compile(r"localStorage|sessionStorage|indexedDB|cookie")
RETIRED = re.compile(r"\b(houses?|doors?|rooms?|whoever|nobody|somebody)\b", re.IGNORECASE)


@pytest.mark.parametrize("server", [TEST_SERVER, locked()], ids=["no key", "key"])
async def test_the_page_and_all_its_files_are_served_without_a_key(server: ServerConfig) -> None:
    async with running_server(server) as running, http_client(running) as client:
        page = await client.get("/")
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["cache-control"] == "no-cache"
        (folder,) = set(re.findall(r'(?:href|src)="(playground/\w+)/', page.text))
        for path in [*SCRIPTS, *OTHER_FILES[1:]]:
            answer = await client.get(f"/{folder}/{path.name}")
            assert answer.status_code == 200
            assert answer.content == path.read_bytes()
            assert "immutable" in answer.headers["cache-control"]
            is_script = answer.headers["content-type"].startswith("text/javascript")
            assert is_script == (path in SCRIPTS)


async def test_a_page_of_another_version_gets_the_files_of_this_one() -> None:
    async with running_server() as server, http_client(server) as client:
        answer = await client.get("/playground/0123456789ab/worklet.js")
    assert answer.content == (FOLDER / "worklet.js").read_bytes()
    assert answer.headers["cache-control"] == "no-cache"


def test_the_version_changes_with_every_file() -> None:
    versions = {
        version_of(files)
        for files in ({}, {"a": b"bc"}, {"ab": b"c"}, {"a": b"b", "c": b""}, {"a": b"b"})
    }
    assert len(versions) == 5


@pytest.mark.parametrize("path", ["/", "/playground/1/page.js", "/playground/1/worklet.js"])
async def test_every_file_has_a_strict_policy(path: str) -> None:
    async with running_server() as server, http_client(server) as client:
        headers = (await client.get(path)).headers
    policy = dict(
        directive.strip().split(" ", 1)
        for directive in headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "name", ["index.html", "pages.py", "__init__.py", "..%2Fapp.py", "%2e%2e/app.py", "nothing.js"]
)
async def test_no_other_file_is_served(name: str) -> None:
    async with running_server() as server, http_client(server) as client:
        answer = await client.get(f"/playground/1/{name}")
    assert answer.status_code == 404
    detail_of(answer)


@pytest.mark.parametrize("path", ["/", "/playground/1/page.js", "/playground/1/style.css"])
async def test_without_the_playground_there_is_no_page(path: str) -> None:
    off = replace(TEST_SERVER, playground=False)
    async with running_server(off) as server, http_client(server) as client:
        answer = await client.get(path)
        assert answer.status_code == 404
        detail_of(answer)
        assert (await client.get("/v1/voices")).status_code == 200


def test_the_page_loads_nothing_from_elsewhere_and_makes_no_markup() -> None:
    for path in [*SCRIPTS, FOLDER / "index.html", FOLDER / "style.css"]:
        text = path.read_text(encoding="utf-8")
        assert not ELSEWHERE.search(text), path
        assert not MARKUP.search(text), path
        assert not STORAGE.search(text), path


def test_the_page_has_no_inline_script_or_style() -> None:
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)


def test_the_page_offers_every_format() -> None:
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert sorted(re.findall(r"<option[^>]*>([^<]+)<", page)) == sorted(FORMATS)


def test_every_field_has_a_label() -> None:
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    labelled = set(re.findall(r'<label for="([^"]+)"', page))
    for label in re.findall(r"<label(?: class[^>]*)?>.*?</label>", page, re.DOTALL):
        labelled |= set(re.findall(r'<(?:input|select)[^>]*id="([^"]+)"', label))
    assert set(re.findall(r'<(?:input|select|textarea) [^>]*?id="([^"]+)"', page)) == labelled


@pytest.mark.parametrize("path", [*SCRIPTS, *OTHER_FILES], ids=lambda path: path.name)
def test_retired_words_do_not_return(path: Path) -> None:
    assert not RETIRED.search(path.read_text(encoding="utf-8"))


def test_the_wheel_has_the_files() -> None:
    hatchling = pytest.importorskip("hatchling.builders.wheel", reason="needs hatchling")
    files = hatchling.WheelBuilder(str(ROOT)).recurse_included_files()
    included = {file.distribution_path for file in files}
    expected = {f"csm_trio/api/playground/{path.name}" for path in [*SCRIPTS, *OTHER_FILES]}
    assert len(expected) > 10
    assert expected <= included
