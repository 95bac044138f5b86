"""deploy/: configurations that their own programs accept, and metrics that the server has.

What needs a program that is missing here is skipped with its name.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from csm_trio.config import add_flags, load_config
from csm_trio.server import CLEANUP_S
from csm_trio.telemetry import Metrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
OVERLAYS = sorted(path.parent for path in DEPLOY.glob("kubernetes/overlays/*/kustomization.yaml"))
PAGE = ROOT / "docs" / "deployment.md"

each_overlay = pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def run(*command: str, cwd: Path = ROOT, environ: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def samples() -> set[str]:
    """Return the names of all samples that the server can expose, `_created` ones aside."""
    names: set[str] = set()
    for metric in Metrics().registry.collect():
        ends = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
        names |= {metric.name + end for end in ends.get(metric.type, [""])}
    return names


def named_metrics(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w:])csm_[a-z0-9_]+", text))


# --- HAProxy ---


@needs("haproxy")
def test_haproxy_accepts_its_configuration_for_kubernetes() -> None:
    path = DEPLOY / "kubernetes" / "components" / "haproxy" / "haproxy.cfg"
    environ = {"CSM_SERVICE": "csm", "CSM_SESSIONS": "64", "PATH": os.environ["PATH"]}
    run("haproxy", "-c", "-f", str(path), environ=environ)


def test_the_two_haproxy_configurations_agree() -> None:
    def rules(path: Path) -> set[str]:
        lines = path.read_text(encoding="utf-8").splitlines()
        return {line.strip() for line in lines if not re.match(r"\s*(#|server |$)", line)}

    static = rules(DEPLOY / "haproxy.cfg") - {"default-server weight 100 maxconn 64"}
    assert static <= rules(DEPLOY / "kubernetes" / "components" / "haproxy" / "haproxy.cfg")


@needs("kubectl")
@each_overlay
def test_haproxy_knows_the_sessions_of_its_servers(overlay: Path) -> None:
    resources = built(overlay)
    server, proxy = (
        resources["Deployment", name]["spec"]["template"]["spec"]["containers"][0]
        for name in ("csm-trio", "csm-haproxy")
    )
    config = load_config(vars(parsed(server["args"][1:])), {})
    sessions = {one["name"]: one["value"] for one in proxy["env"]}["CSM_SESSIONS"]
    assert int(sessions) == (config.server.max_sessions or config.engine.pool_size)


# --- Prometheus and Grafana ---


@needs("promtool")
def test_prometheus_accepts_its_files() -> None:
    run("promtool", "check", "config", "prometheus.yml", cwd=PROMETHEUS)
    run("promtool", "test", "rules", "alerts_test.yml", cwd=PROMETHEUS)


@needs("promtool")
def test_prometheus_accepts_its_files_for_kubernetes(tmp_path: Path) -> None:
    # Debian's Prometheus has no discovery in Kubernetes: a static target stands for it.
    text = (PROMETHEUS / "kubernetes.yml").read_text(encoding="utf-8")
    static = text.replace(
        "kubernetes_sd_configs:\n      - role: pod", 'static_configs: [{targets: ["a"]}]'
    )
    assert static != text
    (tmp_path / "prometheus.yml").write_text(static)
    shutil.copy(PROMETHEUS / "alerts.yml", tmp_path)
    run("promtool", "check", "config", str(tmp_path / "prometheus.yml"))


@pytest.mark.parametrize(
    "path",
    [
        PROMETHEUS / "alerts.yml",
        DEPLOY / "grafana" / "csm-trio.json",
        DEPLOY / "kubernetes" / "components" / "keda" / "scaledobject.yaml",
    ],
    ids=lambda path: path.name,
)
def test_every_metric_in_use_exists(path: Path) -> None:
    used = named_metrics(path.read_text(encoding="utf-8"))
    assert used
    assert used <= samples()


def test_the_deployment_page_lists_every_metric_and_no_other() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("\n## Metrics\n")[2].partition("\n## ")[0]
    listed = {
        name
        for line in section.splitlines()
        if line.startswith("| `")
        for name in named_metrics(line.split(" | ")[0])
    }
    plain = {re.sub("_(bucket|count|sum)$", "", name) for name in samples()}
    assert listed == plain


def test_the_dashboard_has_a_panel_for_each_place() -> None:
    panels = json.loads((DEPLOY / "grafana" / "csm-trio.json").read_text(encoding="utf-8"))[
        "panels"
    ]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    assert all(target["expr"] for panel in panels for target in panel["targets"])


# --- Kubernetes ---


def built(overlay: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the resources of an overlay by kind and name without the overlay's suffix."""
    text = run("kubectl", "kustomize", str(overlay))
    resources = [one for one in yaml.safe_load_all(text) if one]
    suffix = f"-{overlay.name}"
    return {(one["kind"], one["metadata"]["name"].partition(suffix)[0]): one for one in resources}


@needs("kubectl")
@each_overlay
def test_the_grace_period_is_longer_than_the_drain(overlay: Path) -> None:
    pod = built(overlay)["Deployment", "csm-trio"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    config = load_config(vars(parsed(container["args"][1:])), {})
    pre_stop_s = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    ends_s = pre_stop_s + config.server.drain_s + 2 * CLEANUP_S
    assert pod["terminationGracePeriodSeconds"] > ends_s
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": config.server.port, "agent": config.server.agent_port}


def parsed(arguments: list[str]) -> Any:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return parser.parse_args(arguments)


@needs("kubectl")
@each_overlay
def test_pods_are_locked_down(overlay: Path) -> None:
    resources = built(overlay)
    for name in ("csm-trio", "csm-haproxy"):
        pod = resources["Deployment", name]["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        # Their variables, like CSM_HAPROXY_PORT, are unknown settings of the server.
        assert pod["enableServiceLinks"] is False
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["readinessProbe"]


@needs("kubectl")
@each_overlay
def test_selectors_find_their_pods_and_no_others(overlay: Path) -> None:
    resources = built(overlay)
    server, proxy = (
        resources["Deployment", name]["spec"]["template"]["metadata"]["labels"]
        for name in ("csm-trio", "csm-haproxy")
    )
    for (kind, name), resource in resources.items():
        spec = resource.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector")
        if kind not in ("Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"):
            continue
        labels = selector.get("matchLabels", selector)
        own, other = (server, proxy) if name == "csm-trio" else (proxy, server)
        assert labels.items() <= own.items(), kind
        assert not labels.items() <= other.items(), kind


@needs("kubectl")
@each_overlay
def test_keda_scales_the_deployment_of_its_gpu(overlay: Path) -> None:
    resources = built(overlay)
    scaled = resources["ScaledObject", "csm-trio"]["spec"]
    assert (
        scaled["scaleTargetRef"]["name"] == resources["Deployment", "csm-trio"]["metadata"]["name"]
    )
    for trigger in scaled["triggers"]:
        gpus = re.findall(r'gpu="(.*?)"', trigger["metadata"]["query"])
        assert gpus == [overlay.name, overlay.name]
    proxy = resources["Deployment", "csm-haproxy"]["spec"]["template"]["spec"]["containers"][0]
    assert proxy["env"][0]["value"] == resources["Service", "csm-trio"]["metadata"]["name"]


@needs("kubectl")
@each_overlay
def test_manifests_satisfy_kubernetes_schemas(overlay: Path) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for (kind, _), resource in built(overlay).items():
        if kind != "ScaledObject":  # KEDA's schema is not in the package
            validate.validate(resource, "1.32", strict=True)


@needs("kubectl")
def test_added_voices_get_a_volume_of_their_own(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY / "kubernetes", tmp_path / "kubernetes")
    overlay = tmp_path / "kubernetes" / "overlays" / "h100"
    file = overlay / "kustomization.yaml"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("# Added voices: - ..", "- .."))
    resources = built(overlay)
    claim = resources["PersistentVolumeClaim", "csm-trio-voices"]["metadata"]["name"]
    pod = resources["Deployment", "csm-trio"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    speech = load_config(vars(parsed(container["args"][1:])), {}).speech
    assert speech.voice_upload
    assert {"name": "voices", "mountPath": str(speech.data_dir)} in container["volumeMounts"]
    assert {"name": "voices", "persistentVolumeClaim": {"claimName": claim}} in pod["volumes"]


# --- Kubernetes without kubectl: the files of the base, before an overlay adds to them ---


def base_resources() -> dict[str, dict[str, Any]]:
    files = sorted((DEPLOY / "kubernetes" / "base").glob("*.yaml"))
    texts = [path.read_text(encoding="utf-8") for path in files if path.stem != "kustomization"]
    return {one["kind"]: one for text in texts for one in yaml.safe_load_all(text)}


def test_the_base_satisfies_kubernetes_schemas() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for resource in base_resources().values():
        validate.validate(resource, "1.32", strict=True)


def test_the_base_outlasts_the_drain_and_leaves_the_replicas_to_keda() -> None:
    spec = base_resources()["Deployment"]["spec"]
    assert "replicas" not in spec
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    config = load_config(vars(parsed(container["args"][1:])), {})
    pre_stop_s = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    end_s = pre_stop_s + config.server.drain_s + 2 * CLEANUP_S
    assert pod["terminationGracePeriodSeconds"] > end_s
    startup = container["startupProbe"]
    start_s = startup["periodSeconds"] * startup["failureThreshold"]
    assert spec["progressDeadlineSeconds"] >= start_s
    user = "10001"  # the image's: see test_images.py
    assert str(pod["securityContext"]["runAsUser"]) == user


def test_keda_keeps_the_pods_where_prometheus_has_no_figures() -> None:
    file = DEPLOY / "kubernetes" / "components" / "keda" / "scaledobject.yaml"
    spec = yaml.safe_load(file.read_text(encoding="utf-8"))["spec"]
    assert 1 <= spec["minReplicaCount"] < spec["maxReplicaCount"]
    for trigger in spec["triggers"]:
        # KEDA takes strings alone.
        assert all(isinstance(text, str) for text in trigger["metadata"].values())
        assert trigger["metadata"]["ignoreNullValues"] == "false"
        assert 0 < float(trigger["metadata"]["threshold"]) < 1


# --- Compose ---


@pytest.mark.parametrize(
    ("name", "variant"), [("compose.yaml", "cuda"), ("compose.cpu.yaml", "cpu")]
)
def test_compose_builds_its_variant_and_waits_for_the_drain(name: str, variant: str) -> None:
    composed = yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))
    service = composed["services"]["csm-trio"]
    config = load_config({}, {key: value or "" for key, value in service["environment"].items()})
    stop_s = float(service["stop_grace_period"].removesuffix("s"))
    assert stop_s > config.server.drain_s + 2 * CLEANUP_S
    assert service["read_only"] is True
    assert service["build"] == {"context": "..", "args": {"VARIANT": variant}}
    assert ("deploy" in service) == (variant == "cuda")
    assert f"voices:{config.speech.data_dir}" in service["volumes"]
    assert {volume.partition(":")[0] for volume in service["volumes"]} == set(composed["volumes"])
