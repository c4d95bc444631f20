"""The files for more than one host: their own linters take them, and what the parts may reach is what they need."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from house import ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES = sorted(path for path in (DEPLOY / "kubernetes").glob("*.yaml") if path.name != "kustomization.yaml")
#: What leads to Redis and to the store, with the secrets that let one in.
ROADS = {"SDSPOOL_DISPATCH", "SDSPOOL_STORE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


def ran(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def objects() -> list[dict[str, Any]]:
    return [each for path in KUBERNETES for each in yaml.safe_load_all(path.read_text())]


def of(kind: str, name: str) -> dict[str, Any]:
    (found,) = (each for each in objects() if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def pods() -> dict[str, dict[str, Any]]:
    """The containers, by their names."""
    made = [each["spec"]["template"]["spec"] for each in objects() if each["kind"] in ("StatefulSet", "Deployment")]
    return {container["name"]: container for pod in made for container in pod["containers"]}


def environment(container: dict[str, Any]) -> dict[str, Any]:
    shared = of("ConfigMap", "sdspool")["data"] if container.get("envFrom") else {}
    return {**shared, **{each["name"]: each.get("value") or each["valueFrom"] for each in container.get("env", [])}}


@pytest.mark.parametrize("name", ["compose.yaml", "compose.cluster.yaml"])
def test_the_compose_files_are_what_their_schema_says(name: str) -> None:
    ended = ran("-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(DEPLOY / name))
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_kubernetes_knows_every_field_of_the_manifests(version: str) -> None:
    script = "import sys; from kubernetes_validate.__main__ import main; sys.exit(main())"
    ended = ran("-c", script, "-k", version, "--strict", *map(str, KUBERNETES))
    told = ended.stdout + ended.stderr
    assert ended.returncode == 0 and len(re.findall("passed for resource", told)) == len(objects()), told


def test_the_kustomization_names_every_file_and_the_secret_s_keys() -> None:
    text = (DEPLOY / "kubernetes" / "kustomization.yaml").read_text()
    assert sorted(yaml.safe_load(text)["resources"]) == [path.name for path in KUBERNETES]
    keys = {
        key for path in KUBERNETES for key in re.findall(r"secretKeyRef: \{name: sdspool, key: ([\w-]+)\}", path.read_text())
    }
    assert keys == set(re.findall(r"--from-literal=([\w-]+)=", text)) and len(keys) == 3


def test_what_is_referred_to_is_there() -> None:
    for each in objects():
        if each["kind"] in ("StatefulSet", "Deployment"):
            labels, pod = each["spec"]["template"]["metadata"]["labels"], each["spec"]["template"]["spec"]
            assert each["spec"]["selector"]["matchLabels"] == labels
            there = {volume["name"] for volume in pod.get("volumes", [])}
            there |= {claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", [])}
            used = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
            assert used == there
            assert not pod["automountServiceAccountToken"] and pod["securityContext"]["runAsNonRoot"]
            for container in pod["containers"]:
                limits = container["securityContext"]
                assert limits["readOnlyRootFilesystem"] and not limits["allowPrivilegeEscalation"]
                assert limits["capabilities"] == {"drop": ["ALL"]} and container["resources"]["limits"]["memory"]
    (allowed,) = of("NetworkPolicy", "redis")["spec"]["ingress"][0]["from"]
    apps = {
        each["spec"]["template"]["metadata"]["labels"]["app"]
        for each in objects()
        if each["kind"] in ("StatefulSet", "Deployment")
    }
    assert set(allowed["podSelector"]["matchExpressions"][0]["values"]) == apps - {"redis"}


def test_the_web_app_has_no_road_to_redis_or_the_store_and_a_worker_none_to_the_spool() -> None:
    containers = pods()
    assert not ROADS & set(environment(containers["web"]))
    for name in ("spooler", "worker"):
        assert set(environment(containers[name])) >= ROADS
    assert not [mount for mount in containers["worker"]["volumeMounts"] if mount["name"] in ("spool", "keys")]
    services = yaml.safe_load((DEPLOY / "compose.cluster.yaml").read_text())["services"]
    assert not ROADS & set(services["web"].get("environment", {}))
    for name in ("spooler", "worker"):
        assert set(services[name]["environment"]) >= ROADS
    assert not [mount for mount in services["worker"]["volumes"] if mount.startswith(("spool:", "keys:"))]
    assert "ports" not in services["redis"] and "ports" not in services["worker"]


def test_no_secret_is_written_in_the_files() -> None:
    for path in [*KUBERNETES, DEPLOY / "compose.cluster.yaml"]:
        for line in path.read_text().splitlines():
            if re.search("PASSWORD|SECRET|requirepass", line) and not line.startswith("#"):
                assert re.search(r"\$\{?\(?\$?\"?\w|secretKeyRef|\$\$REDIS", line), f"{path.name}: {line}"


@pytest.mark.parametrize("name", ["web", "spooler", "worker"])
def test_the_commands_are_commands(name: str) -> None:
    services = yaml.safe_load((DEPLOY / "compose.cluster.yaml").read_text())["services"]
    for command in (services[name].get("command"), pods()[name].get("command")):
        if command is None:
            assert name == "web", "the image's own command"
            continue
        words = command[1:] if command[0] == "python" else ["-m", "spooler.cli", *command[1:]]
        assert command[0] in ("python", "sdspool") and ran(*words, "--help").returncode == 0


def test_stopping_a_worker_leaves_it_time_to_end_its_jobs() -> None:
    services = yaml.safe_load((DEPLOY / "compose.cluster.yaml").read_text())["services"]
    assert services["worker"]["stop_grace_period"] == "10m"
    assert of("Deployment", "worker")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 600
    assert "TimeoutStopSec=infinity" in Path(DEPLOY / "systemd" / "sdspool-worker.service").read_text()
