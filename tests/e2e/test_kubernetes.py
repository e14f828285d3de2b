"""Render the manifests, check them against the schemas of Kubernetes, and against the server."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import validate

from metanas_server.config import PREFIX, ServerConfig, options

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "deploy" / "kubernetes"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
VERSION = "1.30"
MONITORED = """apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../base]
components: [../monitoring]
"""
pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")


@pytest.fixture(scope="module", params=["base", "gpu", "monitored"])
def rendered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The objects of a variant by kind."""
    folder = tmp_path_factory.mktemp("manifests")
    shutil.copytree(MANIFESTS, folder, dirs_exist_ok=True)
    (folder / "monitored").mkdir()
    (folder / "monitored" / "kustomization.yaml").write_text(MONITORED, encoding="utf-8")
    command = ["kubectl", "kustomize", str(folder / request.param)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {each["kind"]: each for each in yaml.safe_load_all(done.stdout)}


@pytest.fixture
def pod(rendered: Mapping[str, Any]) -> Any:
    return rendered["StatefulSet"]["spec"]["template"]["spec"]


@pytest.fixture
def container(pod: Mapping[str, Any]) -> Any:
    (found,) = pod["containers"]
    return found


def test_objects_follow_the_schemas(rendered: Mapping[str, Any]) -> None:
    assert {"Service", "StatefulSet"} <= {*rendered}
    for kind, each in rendered.items():
        if kind != "ServiceMonitor":  # of the Prometheus Operator
            validate(each, VERSION, strict=True)


def test_ports_have_the_names_that_services_and_monitors_use(
    rendered: Mapping[str, Any], container: Mapping[str, Any]
) -> None:
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    service = rendered["Service"]["spec"]["ports"]
    assert {port["targetPort"]: port["port"] for port in service} == ports
    assert f"EXPOSE {ports['grpc']}" in DOCKERFILE
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"]["port"] == ports["grpc"]
    if monitor := rendered.get("ServiceMonitor"):
        assert {end["port"] for end in monitor["spec"]["endpoints"]} <= {*ports}
        labels = rendered["Service"]["metadata"]["labels"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_variables_are_options(container: Mapping[str, Any]) -> None:
    known = {PREFIX + each.name.upper() for each in options()}
    assert {variable["name"] for variable in container["env"]} <= known


def test_the_pod_fits_the_image(pod: Mapping[str, Any], container: Mapping[str, Any]) -> None:
    security = pod["securityContext"]
    user = re.search(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    assert user is not None
    assert user.groups() == (str(security["runAsUser"]), str(security["runAsGroup"]))
    assert container["securityContext"]["readOnlyRootFilesystem"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted == {"/data", "/tmp"}
    assert "METANAS_DATA=/data" in DOCKERFILE
    assert pod["terminationGracePeriodSeconds"] > ServerConfig().grace
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= ServerConfig().start_seconds
