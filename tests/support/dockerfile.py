"""Reads the Dockerfile and .dockerignore of this repository: the subset of their syntax in use."""

import fnmatch
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True)
class Instruction:
    keyword: str
    text: str


@dataclass(frozen=True)
class Stage:
    """`name` is empty where FROM gives none."""

    source: str
    name: str
    instructions: tuple[Instruction, ...]


def instructions(text: str) -> list[Instruction]:
    """Return the instructions in order, each on one line, without comments."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    pairs = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [Instruction(keyword, rest) for keyword, rest in pairs]


def stages(text: str, arguments: Mapping[str, str]) -> list[Stage]:
    """Return the stages, in which `arguments` hold in place of the defaults of global ARGs."""
    values: dict[str, str] = {}
    found: list[Stage] = []
    for instruction in instructions(text):
        if instruction.keyword == "FROM":
            source, *name = expand(instruction.text, values).split()
            found.append(Stage(source, name[1] if name else "", ()))
        elif not found:
            name_, _, default = instruction.text.partition("=")
            values[name_] = arguments.get(name_, default)
        else:
            last = found[-1]
            found[-1] = Stage(last.source, last.name, (*last.instructions, instruction))
    return found


def expand(text: str, values: Mapping[str, str]) -> str:
    """Return the text with its variables replaced; an unknown one is empty."""
    return _VARIABLE.sub(lambda match: values.get(match[1] or match[2], ""), text)


def assignments(text: str, values: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that an ENV or a LABEL sets."""
    pairs = (word.partition("=") for word in shlex.split(text))
    return {name: expand(value, values) for name, _, value in pairs}


def in_context(ignore_file: str, path: Path) -> bool:
    """Return whether .dockerignore lets a file through; the path is relative to the context."""
    kept = True
    for line in ignore_file.splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        negated = pattern.startswith("!")
        if _matches(pattern.removeprefix("!"), path):
            kept = negated
    return kept


def _matches(pattern: str, path: Path) -> bool:
    """Return whether a pattern names the file or one of the folders that it lies in."""
    ways = [path, *path.parents[:-1]]
    if pattern.startswith("**/"):
        return any(fnmatch.fnmatch(way.name, pattern[3:]) for way in ways)
    depth = pattern.count("/")
    return any(
        way.as_posix().count("/") == depth and fnmatch.fnmatch(way.as_posix(), pattern)
        for way in ways
    )
