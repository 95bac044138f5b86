"""HAProxy with the configuration of `deploy/`, in front of servers on the loopback."""

import csv
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

CONFIG = Path(__file__).parents[2] / "deploy" / "haproxy.cfg"
HAPROXY = shutil.which("haproxy")

BACKENDS = ("speech", "lists")

_START_S = 10.0


@dataclass(frozen=True, slots=True)
class ServerPorts:
    """The ports of one server: for clients, and for the agent check."""

    clients: int
    agent: int


@dataclass(frozen=True, slots=True)
class ServerRow:
    """What HAProxy says of one server: its state, its weight, its connections now and so far."""

    status: str
    weight: int
    current: int
    total: int


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running HAProxy."""

    port: int
    status_port: int

    def rows(self) -> dict[str, ServerRow]:
        """Return what it says of each server, by name."""
        url = f"http://127.0.0.1:{self.status_port}/;csv"
        lines = httpx.get(url, trust_env=False).text.removeprefix("# ").splitlines()
        return {
            row["svname"]: ServerRow(
                row["status"], int(row["weight"]), int(row["scur"]), int(row["stot"])
            )
            for row in csv.DictReader(lines)
            if row["pxname"] == "speech" and row["svname"] != "BACKEND"
        }

    def wait(self, holds: Callable[[dict[str, ServerRow]], bool], guard_s: float = 30.0) -> None:
        """Block until the rows satisfy a condition; in a Trio task, call it in a thread."""
        give_up_s = time.monotonic() + guard_s
        while not holds(rows := self.rows()):
            if time.monotonic() > give_up_s:
                raise TimeoutError(f"it does not come about: {rows}")
            time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback that nobody listens on."""
    with ExitStack() as taken:
        sockets = [
            taken.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [one.getsockname()[1] for one in sockets]


def loopback_config(
    servers: Sequence[ServerPorts], sessions: int, port: int, status_port: int
) -> str:
    """Return the configuration of `deploy/` with other addresses and limits of sessions."""
    text = CONFIG.read_text(encoding="utf-8")
    for number, ports in enumerate(servers, 1):
        line = f"server gpu{number} 127.0.0.1:{ports.clients} agent-port {ports.agent}"
        text, count = re.subn(rf"server gpu{number} \S+$", line, text, flags=re.MULTILINE)
        assert count == len(BACKENDS)
    text = text.replace("maxconn 64", f"maxconn {sessions}")
    text = text.replace("bind :8000", f"bind 127.0.0.1:{port}")
    return text.replace("bind 127.0.0.1:8404", f"bind 127.0.0.1:{status_port}")


@contextmanager
def haproxy(servers: Sequence[ServerPorts], sessions: int, folder: Path) -> Iterator[Proxy]:
    """Run HAProxy in front of servers of so many sessions; its log is in the folder."""
    assert HAPROXY is not None
    port, status_port = free_ports(2)
    path = folder / "haproxy.cfg"
    path.write_text(loopback_config(servers, sessions, port, status_port), encoding="utf-8")
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen([HAPROXY, "-f", str(path), "-db"], stderr=log, stdout=log)
    try:
        _await_port(status_port)
        yield Proxy(port, status_port)
    finally:
        process.kill()
        process.wait()


def _await_port(port: int) -> None:
    give_up_s = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > give_up_s:
                raise
            time.sleep(0.02)
        else:
            return
