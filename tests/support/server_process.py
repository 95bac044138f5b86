"""A server in a process of its own, as a user starts it, and what the system knows of it."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from csm_trio.bench.load.point import parse_metrics
from support.processes import child_processes, command_line

_LISTENING = re.compile(r"listening on http://[^:]+:(\d+)")
_START_S = 60.0
_END_S = 30.0


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A running server: its process, its port, and the lines of its log."""

    process: "subprocess.Popen[str]"
    port: int
    log: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def descriptors(self) -> int:
        """Count the open file descriptors of the process (Linux)."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def threads(self) -> int:
        """Count the threads of the process (Linux)."""
        return int(self._status("Threads"))

    def rss_mb(self) -> float:
        """Return the resident memory of the process in MB (Linux)."""
        return int(self._status("VmRSS")) / 1024

    def metrics(self) -> dict[str, float]:
        """Return every sample of `/metrics`, by its name with its labels."""
        return parse_metrics(httpx.get(f"{self.url}/metrics", trust_env=False, timeout=30).text)

    def children(self, role: str) -> list[int]:
        """Return the ids of the child processes of a role: `engine` or `worker` (Linux)."""
        return [pid for pid in child_processes(self.process.pid) if role in command_line(pid)]

    def _status(self, name: str) -> str:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return next(line for line in status.splitlines() if line.startswith(name)).split()[1]


def has_ended(pid: int) -> bool:
    """Return whether a process has ended (Linux)."""
    return command_line(pid) in ([], [""])


@contextmanager
def server_process(
    *flags: str,
    environ: dict[str, str] | None = None,
    prefix: Sequence[str] = (),
    program: Sequence[str] = ("csm_trio", "serve"),
) -> Iterator[ServerProcess]:
    """Run `csm-trio serve` on a free port of the loopback; end it with SIGTERM at exit.

    `prefix` is a command that runs the server; `program` is the module to run, with its first
    arguments. Raises RuntimeError where it does not start.
    """
    command = [*prefix, sys.executable, "-m", *program, "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--drain-s", "2", *flags],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environ or {})},
    )
    log: list[str] = []
    listening = threading.Event()
    port = 0

    def read_log() -> None:
        nonlocal port
        assert process.stderr is not None
        for line in process.stderr:
            log.append(line)
            if found := _LISTENING.search(line):
                port = int(found[1])
                listening.set()

    reader = threading.Thread(target=read_log)
    reader.start()
    try:
        if not listening.wait(_START_S):
            raise RuntimeError("the server does not start: " + "".join(log))
        yield ServerProcess(process, port, log)
    finally:
        process.terminate()
        try:
            process.wait(_END_S)
        finally:
            process.kill()
            reader.join()
            if process.stderr is not None:
                process.stderr.close()
