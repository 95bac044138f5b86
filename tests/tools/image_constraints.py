"""Write deploy/constraints.txt: the releases that the container images install.

    PYTHONPATH=tests python -m tools.image_constraints

pip resolves the newest releases that pyproject.toml allows, for the images' Python and platforms,
from PyPI alone. It installs nothing, but fetches wheels where the index serves no metadata.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "deploy" / "constraints.txt"
PYTHON = "3.11"
# Wheels for every glibc up to Debian 12's.
_GLIBC = ("manylinux2014", *(f"manylinux_2_{minor}" for minor in range(17, 37)))
_OWN_SOURCES = ("PIP_CONSTRAINT", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS")
_HEAD = """\
# Releases in the container images, CPU and CUDA, for linux/amd64 and linux/arm64.
# Written by: PYTHONPATH=tests python -m tools.image_constraints
"""


def resolved(machine: str, constraints: Path | None = None) -> dict[str, str]:
    """Return the version of each package that csm-trio[otel] needs on one kind of machine.

    Markers of the machine's kind are judged on this one; its wheels are those of `machine`.
    Raises `CalledProcessError` where pip finds no set of wheels.
    """
    # Wheels of this machine's own are no releases.
    environ = {name: text for name, text in os.environ.items() if name not in _OWN_SOURCES}
    environ["PIP_CONFIG_FILE"] = os.devnull
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"),
                *("--ignore-installed", "--only-binary=:all:", f"--python-version={PYTHON}"),
                *(f"--platform={glibc}_{machine}" for glibc in _GLIBC),
                *([] if constraints is None else [f"--constraint={constraints}"]),
                *(f"--target={folder}/target", f"--report={report}", f"{ROOT}[otel]"),
            ],
            check=True,
            env=environ,
        )
        installs: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["install"]
    versions = {item["metadata"]["name"].lower(): item["metadata"]["version"] for item in installs}
    del versions["csm-trio"]
    return versions


def written(versions: dict[str, str]) -> str:
    """Return the file's text."""
    return _HEAD + "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))


def main() -> None:
    """Write the file; an error, and the file of x86-64, where aarch64 lacks one of its releases."""
    versions = resolved("x86_64")
    CONSTRAINTS.write_text(written(versions), encoding="utf-8")
    versions |= resolved("aarch64", CONSTRAINTS)
    CONSTRAINTS.write_text(written(versions), encoding="utf-8")


if __name__ == "__main__":
    main()
