"""Kubernetes manifests without a cluster: kubectl builds them, podman runs the gateway."""

import shutil
import subprocess

import pytest
import yaml

from tests.containers import podman
from tests.containers.conftest import eventually
from tests.containers.podman import BUILD

pytestmark = pytest.mark.containers
MANIFESTS = "deploy/kubernetes/base"


@pytest.fixture(scope="module")
def built() -> list[dict]:  # type: ignore[type-arg]
    """All objects, as built by kubectl."""
    if shutil.which("kubectl") is None:
        subprocess.run(
            ["apt-get", "-qq", "install", "-y", "--no-install-recommends", "kubernetes-client"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return list(yaml.safe_load_all(podman.run("kubectl", "kustomize", MANIFESTS).stdout))


def test_kubectl_builds_every_object(built: list[dict]) -> None:  # type: ignore[type-arg]
    kinds = sorted(item["kind"] for item in built)
    assert kinds.count("Service") == 3
    assert {"Deployment", "StatefulSet", "Namespace", "ConfigMap", "NetworkPolicy"} <= set(kinds)
    assert all(item["metadata"].get("namespace", "channeltok") == "channeltok" for item in built)


@pytest.mark.usefixtures("gateway_image")
def test_gateway_deployment_runs_in_podman(built: list[dict]) -> None:  # type: ignore[type-arg]
    """Without a Triton it is alive, is not ready, and logs why."""
    (deployment,) = [item for item in built if item["kind"] == "Deployment"]
    (settings,) = [item for item in built if item["kind"] == "ConfigMap"]
    for item in (deployment, settings):
        item["metadata"].pop("namespace")
    file = BUILD / "gateway.yaml"
    file.write_text(yaml.safe_dump_all([settings, deployment]))
    podman.podman("play", "kube", "--down", str(file), check=False)
    podman.podman("play", "kube", str(file))
    try:
        names = podman.podman("ps", "--format", "{{.Names}}").stdout.split()
        container = podman.Container(next(name for name in names if name.endswith("-gateway")))

        def is_alive() -> bool:
            url = "http://127.0.0.1:8080/livez"
            program = f"import urllib.request; print(urllib.request.urlopen('{url}').status)"
            command = ["exec", container.name, "python", "-c", program]
            return "200" in podman.podman(*command, check=False).stdout

        eventually(is_alive, 30, "liveness")
        eventually(lambda: "does not answer" in container.logs(), 30, "the reason in the log")
    finally:
        podman.podman("play", "kube", "--down", str(file), check=False)
