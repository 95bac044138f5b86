"""The code that the page offers to copy: each program runs, and gets the speech that was heard."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from csm_trio.api.playground import pages
from csm_trio.config import Config
from support.client_calls import GUARD_S, KEY, locked, sine_speech
from support.fakes import SineRunner
from support.serving import TEST_SERVER, serving

HOSTILE = "It's \"5\" \\ $HOME `id` ${1}; 'FRAMES=9' ünï 👍\nNew line."
PLAIN: dict[str, Any] = {
    "text": HOSTILE,
    "voice": "default",
    "format": "pcm_16000",
    "speed": 1,
    "stability": 0.5,
    "temperature": None,
    "topK": None,
    "seed": None,
}
EVERY = {
    **PLAIN,
    "speed": 0.9,
    "stability": 1,
    "temperature": 0.7,
    "topK": 5,
    "seed": 4_294_967_295,
}
PROGRAMS = {
    "curl": ("bash", "program.sh"),
    "python": (sys.executable, "program.py"),
    "javascript": ("node", "program.mjs"),
}


def snippets_of(folder: Path, base: str, request: dict[str, Any], *, has_key: bool) -> Any:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not on this machine")
    shutil.copy(Path(pages.__file__).parent / "snippets.js", folder / "snippets.mjs")
    (folder / "print.mjs").write_text(
        'import { snippets } from "./snippets.mjs";\n'
        f"console.log(JSON.stringify(snippets(...{json.dumps([base, request, has_key])})));",
        encoding="utf-8",
    )
    done = subprocess.run(
        [node, "print.mjs"], cwd=folder, capture_output=True, text=True, check=True, timeout=GUARD_S
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("language", PROGRAMS)
@pytest.mark.parametrize(
    ("request_", "has_key"), [(PLAIN, False), (EVERY, True)], ids=["plain", "every setting"]
)
async def test_a_program_gets_the_speech(
    tmp_path: Path, language: str, request_: dict[str, Any], has_key: bool
) -> None:
    command = PROGRAMS[language]
    if shutil.which(command[0]) is None or (language == "curl" and shutil.which("curl") is None):
        pytest.skip(f"{command[0]} or curl is not on this machine")
    runner = SineRunner()
    config = Config(server=locked() if has_key else TEST_SERVER)
    environ = {**os.environ, "CSM_API_KEY": KEY, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner, config) as server:
            texts = snippets_of(tmp_path, server.url("/"), request_, has_key=has_key)
            assert KEY not in texts[language]
            (tmp_path / command[1]).write_text(texts[language], encoding="utf-8")
            await trio.run_process(command, cwd=tmp_path, env=environ)
    speech = sine_speech(runner.opened, request_["format"], speed=request_["speed"])
    assert (tmp_path / "speech.pcm").read_bytes() == speech
    (sampling,) = {(one.sampling.temperature, one.sampling.top_k) for one in runner.opened}
    if has_key:
        assert sampling == (0.7, 5)
        assert runner.opened[0].sampling.seed == 2**32 - 1
