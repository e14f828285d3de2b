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
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8")
VERSION = "1.30"
RAY_GROUP = {
    "groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template",
}  # fmt: skip
"""Fields of a group of pods in a RayCluster (ray.io/v1)."""
MONITORED = """apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../base]
components: [../monitoring]
"""
pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")


@pytest.fixture(scope="module", params=["base", "gpu", "ray", "fronts", "monitored"])
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
        if kind not in ("ServiceMonitor", "RayCluster"):  # of operators
            validate(each, VERSION, strict=True)


def test_pods_of_the_ray_cluster_follow_the_schema_and_the_front_finds_them(
    rendered: Mapping[str, Any], container: Mapping[str, Any]
) -> None:
    if "RayCluster" not in rendered:
        return
    cluster = rendered["RayCluster"]
    head, groups = cluster["spec"]["headGroupSpec"], cluster["spec"]["workerGroupSpecs"]
    for group in (head, *groups):
        assert {*group} <= RAY_GROUP
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        spec = group["template"]["spec"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, "spec": spec}
        validate(pod, VERSION, strict=True)
        assert spec["containers"][0]["image"] == container["image"]
    variables = {each["name"]: each.get("value", "") for each in container["env"]}
    port = head["rayStartParams"]["ray-client-server-port"]
    address = f"ray://{cluster['metadata']['name']}-head-svc:{port}"
    assert variables["METANAS_WORKERS"] == address
    cpus = sum(each["replicas"] * int(each["rayStartParams"]["num-cpus"]) for each in groups)
    assert variables["METANAS_DEVICES"].split(",") == ["cpu"] * cpus
    assert f"ray=={cluster['spec']['rayVersion']}\n" in CONSTRAINTS


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
    given = {variable["name"] for variable in container["env"]}
    assert {name for name in given if not name.startswith("RAY_")} <= known


def test_several_servers_share_their_records(
    rendered: Mapping[str, Any], container: Mapping[str, Any]
) -> None:
    """Each server has a data folder of its own; only the addresses of a secret join them."""
    replicas = rendered["StatefulSet"]["spec"]["replicas"]
    secrets = [each["secretRef"]["name"] for each in container.get("envFrom", [])]
    assert (replicas > 1) == (secrets == ["metanas-server"])


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
