"""Build the container image in a folder without a container engine, and try what it runs.

    PYTHONPATH=tests python -m tools.image_root FOLDER [--variant cuda] [--wheels FOLDER]

As root. The Dockerfile's instructions are carried out by chroot on a minimal
Debian 12 (debootstrap), whose Python stands for the image python:3.11-slim-bookworm. With
`--wheels` torch comes from that folder instead of download.pytorch.org.

Then the CPU image's command runs as its user on a read-only root, without network or capabilities:
it must get healthy, speak, and end by SIGTERM. The CUDA image is built and not run.
"""

import argparse
import array
import json
import os
import shlex
import shutil
import subprocess
import sys
import wave
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from support.dockerfile import Instruction, Stage, assignments, expand, in_context, stages

ROOT = Path(__file__).parents[2]
_PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BASE = "base"
_VARIANTS = {"cpu", "cuda"}
_ALONE = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child")
_TRIAL = Path(__file__).parent / "image_trial.sh"


@dataclass
class Image:
    """What a stage leaves: its root and what is to be run in it."""

    root: Path
    environ: dict[str, str] = field(default_factory=lambda: {"PATH": _PATH})
    arguments: Mapping[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)


def debian(root: Path) -> None:
    """Lay a minimal Debian 12 with Python into the folder, unless it is there."""
    if not root.exists():
        options = ["--variant=minbase", f"--include={_PACKAGES}", "bookworm"]
        subprocess.run(["debootstrap", *options, str(root)], check=True, stdout=sys.stderr)
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    for file in ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt"):
        shutil.copy(file, root / file[1:])


def build(folder: Path, variant: str, wheels: Path | None) -> Image:
    """Carry out the stages that the variant needs; return the last one."""
    folder.mkdir(parents=True, exist_ok=True)
    debian(folder / _BASE)
    images = {_BASE: Image(folder / _BASE)}
    arguments = {"VARIANT": variant, "PYTHON_IMAGE": _BASE}
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    built = Image(folder)
    for number, stage in enumerate(stages(text, arguments)):
        if stage.name.partition("-")[2] in _VARIANTS - {variant}:
            continue
        built = build_stage(stage, images, folder / f"stage-{number}", arguments, wheels)
        images[stage.name or "image"] = built
    return built


def build_stage(
    stage: Stage,
    images: Mapping[str, Image],
    root: Path,
    arguments: Mapping[str, str],
    wheels: Path | None,
) -> Image:
    """Carry out one stage on a copy of the root that it begins with."""
    print(f"FROM {stage.source} AS {stage.name}", file=sys.stderr)
    source = images[stage.source]
    if root.exists():
        shutil.rmtree(root)
    subprocess.run(["cp", "-a", "--reflink=auto", str(source.root), str(root)], check=True)
    image = Image(root, dict(source.environ), arguments, source.folder)
    if wheels is not None:
        shutil.copytree(wheels, root / "mnt/wheels")
    for instruction in stage.instructions:
        carry_out(instruction, image, images)
    if wheels is not None:
        shutil.rmtree(root / "mnt/wheels")
    return image


def carry_out(instruction: Instruction, image: Image, images: Mapping[str, Image]) -> None:
    """Carry out one instruction. Raises `ValueError` for one that is not known here."""
    text = instruction.text
    match instruction.keyword:
        case "RUN":
            run(image, text)
        case "COPY":
            copy(expand(text, image.environ).split(), image, images)
        case "ENV":
            image.environ |= assignments(text, image.environ)
            if _has_wheels(image):
                image.environ.pop("PIP_EXTRA_INDEX_URL", None)
        case "ARG":
            image.environ[text] = image.arguments[text]
        case "WORKDIR":
            image.folder = text
            (image.root / text[1:]).mkdir(parents=True, exist_ok=True)
        case "USER":
            image.user = text
        case "ENTRYPOINT":
            image.entrypoint = json.loads(text)
        case "CMD":
            image.command = json.loads(text)
        case "HEALTHCHECK":
            image.healthcheck = json.loads(text.partition(" CMD ")[2])
        case "LABEL" | "VOLUME" | "EXPOSE" | "STOPSIGNAL":
            pass
        case keyword:
            raise ValueError(f"{keyword} is not known to this program.")


def run(image: Image, command: str) -> None:
    """Run a shell command in the image's root, with this machine's network and pip settings."""
    print(f"RUN {command}", file=sys.stderr)
    names = ("PIP_CERT", "SSL_CERT_FILE", "HTTPS_PROXY", "https_proxy", "PIP_INDEX_URL")
    outer = {name: os.environ[name] for name in names if name in os.environ}
    links = {"PIP_FIND_LINKS": "/mnt/wheels"} if _has_wheels(image) else {}
    mounts = f'mount -t proc proc "{image.root}/proc" && mount --rbind /dev "{image.root}/dev"'
    words = [str(image.root), f"cd {shlex.quote(image.folder)} && {command}"]
    subprocess.run(
        ["unshare", "--mount", "sh", "-c", f'{mounts} && exec chroot "$0" sh -c "$1"', *words],
        check=True,
        env={**image.environ, **outer, **links},
        stdout=sys.stderr,
    )


def _has_wheels(image: Image) -> bool:
    return (image.root / "mnt/wheels").exists()


def copy(words: list[str], image: Image, images: Mapping[str, Image]) -> None:
    """Copy from the build context or, with --from, from another stage's root."""
    stage = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else None
    *sources, target = words
    into = image.root / target[1:] if target.startswith("/") else inside(image) / target
    for source in sources:
        path = ROOT / source if stage is None else images[stage].root / source[1:]
        if path.is_dir():
            shutil.copytree(path, into, symlinks=True, dirs_exist_ok=True, ignore=_ignored)
        else:
            into.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, into / path.name)


def inside(image: Image) -> Path:
    return image.root / image.folder[1:]


def _ignored(folder: str, names: list[str]) -> list[str]:
    """Return which names of a folder .dockerignore leaves out; of a stage's root, none."""
    if not Path(folder).is_relative_to(ROOT):
        return []
    file = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    relative = Path(folder).relative_to(ROOT)
    return [name for name in names if not in_context(file, relative / name)]


def trial(image: Image, output: Path) -> None:
    """Run the image's command as an engine would, and let it speak into `output`, a WAV file.

    Raises `CalledProcessError` where it does not get healthy, speak or end.
    """
    settings = [f"{name}={value}" for name, value in image.environ.items()]
    commands = {
        "SERVER": [*image.entrypoint, *image.command],
        "HEALTHCHECK": image.healthcheck,
        "SETTINGS": settings,
    }
    environ = {name: shlex.join(words) for name, words in commands.items()}
    subprocess.run(
        [*_ALONE, "sh", str(_TRIAL), str(image.root), image.user, image.folder, str(output)],
        check=True,
        env={**os.environ, **environ},
        stdout=sys.stderr,
    )


def loudest(wav: Path) -> tuple[float, float]:
    """Return the duration in seconds and the peak, 0 to 1, of a 16-bit WAV file."""
    with wave.open(str(wav)) as file:
        samples = array.array("h", file.readframes(file.getnframes()))
        return file.getnframes() / file.getframerate(), max(map(abs, samples)) / 32768


def main(argv: list[str] | None = None) -> int:
    """Build, try and report; exit status 1 where the speech is silent or short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variant", choices=sorted(_VARIANTS), default="cpu")
    parser.add_argument("--wheels", type=Path, help="folder with torch's CPU wheel")
    options = parser.parse_args(argv)
    image = build(options.folder.resolve(), options.variant, options.wheels)
    size_bytes = sum(path.lstat().st_size for path in (image.root / "opt/venv").rglob("*"))
    print(f"/opt/venv {size_bytes / 1e6:.0f} MB")
    if options.variant == "cuda":
        return 0
    output = options.folder.resolve() / "speech.wav"
    trial(image, output)
    duration_s, peak = loudest(output)
    print(f"speech {duration_s:.2f} s, peak {peak:.2f}")
    return 0 if duration_s > 1 and peak > 0.05 else 1


if __name__ == "__main__":
    sys.exit(main())
