"""A real server in a process of its own, and programs that know only its address."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

HERE = Path(__file__).parent
KEY = "sk_0123456789"
BUILD_S, RUN_S, STOP_S = 300, 240, 60

ELEVENLABS_JS, OPENAI_JS = "@elevenlabs/elevenlabs-js@^2.73.0", "openai@^6.0.0"

Program = Callable[..., dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Served:
    """Where a server listens, and over TLS if there is a front."""

    port: int
    tls_port: int
    certificates: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        return f"https://localhost:{self.tls_port}"


@contextmanager
def running(*command: str | Path, pattern: str) -> Iterator[str]:
    """Run a process until the block is left; yield the group that `pattern` matches first.

    The rest of its output is read and discarded, so that it never blocks on a full pipe.
    """
    process = subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines = process.stdout
    reader = threading.Thread(target=lines.read)
    read: list[str] = []
    try:
        for line in lines:
            read.append(line)
            if found := re.search(pattern, line):
                break
        else:
            pytest.fail(f"it ended before it was up:\n{''.join(read)}")
        reader.start()
        yield found[1]
    finally:
        process.terminate()
        process.wait(STOP_S)
        if reader.is_alive():
            reader.join()
        lines.close()


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[Served]:
    """Serve the embedded voice, with and without TLS."""
    authority = trustme.CA()
    certificates = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(certificates))
    own = folder / "localhost.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(own))
    serve = (sys.executable, "-m", "csm_trio", "serve", "--cpu", "--host", "127.0.0.1")
    requested = ("--port", "0", "--api-key", KEY, *flags)
    front = (sys.executable, HERE / "tls_front.py", own)
    with (
        running(*serve, *requested, pattern=r"listening on http://127\.0\.0\.1:(\d+)") as port,
        running(*front, port, pattern=r"^(\d+)$") as tls_port,
    ):
        yield Served(int(port), int(tls_port), certificates)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, "--data-dir", str(folder / "data"), "--allow-voice-upload") as served:
        yield served


@pytest.fixture(scope="session")
def single_session_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("one"), "--max-sessions", "1", "--pool-size", "1") as one:
        yield one


@pytest.fixture(scope="session")
def old_python(pytestconfig: pytest.Config) -> Path:
    """Return a Python with `elevenlabs` 2.3.0, which Home Assistant pins."""
    folder = pytestconfig.cache.mkdir("elevenlabs-2.3.0")
    python = folder / "bin" / "python"
    if not (folder / "built").exists():
        build(sys.executable, "-m", "venv", "--clear", folder)
        build(python, "-m", "pip", "install", "--quiet", "elevenlabs==2.3.0")
        (folder / "built").touch()
    return python


@pytest.fixture(scope="session")
def javascript_results(server: Served, run: Program, pytestconfig: pytest.Config) -> dict[str, Any]:
    """Return the results of the JavaScript program; install its SDKs first."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node.js is not on this machine")
    folder = pytestconfig.cache.mkdir("javascript")
    if not (folder / "built").exists():
        (folder / "package.json").write_text('{"private": true}')
        build("npm", "install", "--silent", "--prefix", folder, ELEVENLABS_JS, OPENAI_JS)
        (folder / "built").touch()
    return run("node", shutil.copy(HERE / "javascript_program.mjs", folder), server.url, KEY)


def build(*command: str | Path) -> None:
    """Run one step of an installation; without the registries it needs, its tests are skipped."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=BUILD_S)
    if done.returncode:
        pytest.skip(f"an SDK cannot be installed here: {done.stderr.strip()[-300:]}")


@pytest.fixture(scope="session")
def run() -> Program:
    """Return a function that runs a program to its end, and returns its JSON output."""

    def run(*command: str | Path, certificates: Path | None = None) -> dict[str, Any]:
        environ = {**os.environ, "NO_PROXY": "127.0.0.1,localhost"}
        if certificates is not None:
            environ["SSL_CERT_FILE"] = str(certificates)
        done = subprocess.run(
            [*map(str, command)], capture_output=True, text=True, timeout=RUN_S, env=environ
        )
        assert done.returncode == 0, done.stderr
        results = json.loads(done.stdout)
        assert isinstance(results, dict)
        return results

    return run
