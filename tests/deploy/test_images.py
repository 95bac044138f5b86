"""The Dockerfile, its pins and the release job agree with the code; the CPU image is built and run.

The last test needs root, debootstrap and a network: `pytest -m soak tests/deploy`. It takes torch's
CPU wheel from the folder of PIP_FIND_LINKS, where that is set.
"""

import os
import shutil
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trustme
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from csm_trio.config import Config, load_config
from support.dockerfile import Instruction, Stage, assignments, in_context, instructions, stages
from support.fakes import SineRunner
from support.serving import TEST_SERVER, serving
from tools import image_root
from tools.image_constraints import PYTHON

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text("utf-8")
IGNORED = (ROOT / ".dockerignore").read_text("utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
GUARD_S = 30.0
VARIANTS = ("cpu", "cuda")
PINS = dict(
    line.split("==")
    for line in (ROOT / "deploy" / "constraints.txt").read_text("utf-8").splitlines()
    if not line.startswith("#")
)


def lineage(variant: str) -> list[Instruction]:
    """Return the instructions of the last stage and of those it is based on, in order."""
    by_name: dict[str, Stage] = {}
    chain: list[Instruction] = []
    for stage in stages(TEXT, {"VARIANT": variant}):
        base = by_name.get(stage.source)
        chain = [*(base.instructions if base else ()), *stage.instructions]
        by_name[stage.name] = Stage(stage.source, stage.name, tuple(chain))
    return chain


def settings(variant: str) -> dict[str, str]:
    found = [assignments(one.text, {}) for one in lineage(variant) if one.keyword == "ENV"]
    return {name: value for environ in found for name, value in environ.items()}


def only(keyword: str, variant: str = "cpu") -> str:
    (text,) = (one.text for one in lineage(variant) if one.keyword == keyword)
    return text


# --- The Dockerfile ---


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_stage_begins_with_the_base_or_an_earlier_stage(variant: str) -> None:
    known = {f"python:{PYTHON}-slim-bookworm"}
    for stage in stages(TEXT, {"VARIANT": variant}):
        assert stage.source in known
        known.add(stage.name)


def test_the_base_can_be_pinned_by_an_argument() -> None:
    pinned = "python:3.11-slim-bookworm@sha256:" + "0" * 64
    sources = {stage.source for stage in stages(TEXT, {"PYTHON_IMAGE": pinned})}
    assert {source for source in sources if ":" in source} == {pinned}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_image_runs_serve_as_a_user_without_rights(variant: str) -> None:
    assert only("USER", variant) == "10001:10001"
    assert only("ENTRYPOINT", variant) == '["csm-trio"]'
    assert only("CMD", variant) == '["serve"]'
    assert only("STOPSIGNAL", variant) == "SIGTERM"
    assert only("EXPOSE", variant) == str(config(variant).server.port)


def config(variant: str) -> Config:
    environ = {key: value for key, value in settings(variant).items() if key.startswith("CSM_")}
    return load_config({}, environ)


def test_the_variants_serve_on_their_devices() -> None:
    assert config("cpu").engine.model_id is None
    assert config("cuda").engine.model_id == "sesame/csm-1b"
    assert config("cuda").engine.device == "cuda"
    gcc = [one.text for one in lineage("cuda") if " gcc " in one.text]
    assert len(gcc) == 1
    assert not any(" gcc " in one.text for one in lineage("cpu"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_cache_lies_in_the_volume(variant: str) -> None:
    assert only("VOLUME", variant) == "/models"
    environ = settings(variant)
    for name in ("HF_HOME", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH"):
        assert environ[name].startswith("/models/")


def sources_from_the_context() -> list[str]:
    texts = [one.text for one in instructions(TEXT) if one.keyword == "COPY"]
    return [word for text in texts if "--from" not in text for word in text.split()[:-1]]


@pytest.mark.parametrize("source", sorted(set(sources_from_the_context())))
def test_what_is_copied_exists_and_is_not_ignored(source: str) -> None:
    path = ROOT / source
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    kept = [one for one in files if in_context(IGNORED, one.relative_to(ROOT))]
    assert kept == [one for one in files if "__pycache__" not in one.parts]
    assert kept


@pytest.mark.parametrize(
    "name", [".git/config", "tests/conftest.py", "deploy/compose.yaml", ".env"]
)
def test_what_no_image_needs_stays_out_of_the_context(name: str) -> None:
    assert not in_context(IGNORED, Path(name))


def test_only_the_cpu_variant_looks_for_torch_beside_pypi() -> None:
    for variant in VARIANTS:
        by_name = {stage.name: stage for stage in stages(TEXT, {"VARIANT": variant})}
        base = by_name[by_name["venv"].source]
        found = [assignments(one.text, {}) for one in base.instructions if one.keyword == "ENV"]
        extra = {"PIP_EXTRA_INDEX_URL": "https://download.pytorch.org/whl/cpu"}
        assert found == ([extra] if variant == "cpu" else [])
        assert not any("--index-url" in one.text for one in by_name["venv"].instructions)
        assert "PIP_EXTRA_INDEX_URL" not in settings(variant)


# --- The pins ---


def requirements() -> list[Requirement]:
    texts = [*PYPROJECT["dependencies"], *PYPROJECT["optional-dependencies"]["otel"]]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda one: one.name)
def test_each_requirement_is_pinned_within_its_range(requirement: Requirement) -> None:
    pins = {canonicalize_name(name): version for name, version in PINS.items()}
    assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])


def test_the_images_python_is_one_that_the_package_supports() -> None:
    assert SpecifierSet(PYPROJECT["requires-python"]).contains(PYTHON)
    assert f"Programming Language :: Python :: {PYTHON}" in PYPROJECT["classifiers"]


# --- The health check ---


async def health(**environ: str) -> int:
    """Run the image's health check beside a server; return its exit status."""
    command = [sys.executable, str(ROOT / "deploy" / "healthcheck.py")]
    done = await trio.run_process(command, env=environ, check=False, capture_stderr=True)
    return done.returncode


async def test_the_health_check_asks_the_server() -> None:
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner) as server:
            assert await health(CSM_PORT=str(server.port)) == 0
            assert await health(CSM_PORT=str(server.port), CSM_HOST="127.0.0.1") == 0
            # It speaks no TLS, so this is no answer.
            assert await health(CSM_PORT=str(server.port), CSM_TLS_CERT="cert.pem") == 1
            port = server.port
        assert await health(CSM_PORT=str(port)) == 1


async def test_the_health_check_asks_a_server_with_a_certificate_of_another_name(
    tmp_path: Path,
) -> None:
    leaf = trustme.CA().issue_cert("speech.example")
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    leaf.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    tls = replace(TEST_SERVER, tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem")
    with trio.fail_after(GUARD_S):
        async with serving(SineRunner, Config(server=tls)) as server:
            assert await health(CSM_PORT=str(server.port), CSM_TLS_CERT=str(tls.tls_cert)) == 0


# --- The release job ---


def test_the_release_job_builds_every_variant_with_a_pinned_base_and_its_parts_listed() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text("utf-8"))["jobs"]
    image = jobs["image"]
    assert {one["variant"] for one in image["strategy"]["matrix"]["include"]} == set(VARIANTS)
    (push,) = (step for step in image["steps"] if step.get("with", {}).get("push"))
    assert push["with"]["platforms"] == "linux/amd64,linux/arm64"
    assert push["with"]["sbom"] is True
    assert push["with"]["provenance"] == "mode=max"
    names = {line.partition("=")[0] for line in push["with"]["build-args"].splitlines()}
    assert names == {"VARIANT", "PYTHON_IMAGE"}
    steps = [step for job in jobs.values() for step in job["steps"]]
    assert all("@v" in step["uses"] for step in steps if "uses" in step)


# --- The image itself ---


@pytest.mark.soak
@pytest.mark.skipif(os.getuid() != 0, reason="chroot needs root")
@pytest.mark.skipif(shutil.which("debootstrap") is None, reason="debootstrap is not installed")
def test_the_cpu_image_speaks_without_a_network(tmp_path: Path) -> None:
    wheels = os.environ.get("PIP_FIND_LINKS", "")
    options = [f"--wheels={wheels}"] if wheels and Path(wheels).is_dir() else []
    assert image_root.main([str(tmp_path / "image"), *options]) == 0
    shutil.rmtree(tmp_path / "image")  # 5 GB
