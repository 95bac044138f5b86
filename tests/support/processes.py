"""What Linux' /proc tells of the processes below one."""

from contextlib import suppress
from pathlib import Path


def child_processes(pid: int) -> list[int]:
    """Return the ids of a process's children, in order; none elsewhere than on Linux."""
    found: list[int] = []
    # Of every thread: Trio starts processes from a thread of its own.
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            found += map(int, listed.read_text(encoding="utf-8").split())
    return sorted(found)


def command_line(pid: int) -> list[str]:
    """Return the arguments that a process was started with; none where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
    except OSError:
        return []
