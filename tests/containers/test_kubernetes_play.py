"""The Kubernetes manifests, as far as they go without a cluster: kubectl builds them, podman runs the gateway's Deployment."""

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
    """All objects, as kubectl writes them."""
    if shutil.which("kubectl") is None:
        subprocess.run(
            ["apt-get", "-qq", "install", "-y", "--no-install-recommends", "kubernetes-client"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return list(yaml.safe_load_all(podman.run("kubectl", "kustomize", MANIFESTS).stdout))


def test_kubectl_builds_every_object(built: list[dict]) -> None:  # type: ignore[type-arg]
    kinds = sorted(one["kind"] for one in built)
    assert kinds.count("Service") == 3
    assert {"Deployment", "StatefulSet", "Namespace", "ConfigMap", "NetworkPolicy"} <= set(kinds)
    assert all(one["metadata"].get("namespace", "channeltok") == "channeltok" for one in built)


@pytest.mark.usefixtures("gateway_image")
def test_podman_runs_the_gateways_deployment(built: list[dict]) -> None:  # type: ignore[type-arg]
    """Not with a Triton: it lives, is not ready, and says why."""
    (deployment,) = [one for one in built if one["kind"] == "Deployment"]
    (settings,) = [one for one in built if one["kind"] == "ConfigMap"]
    for one in (deployment, settings):
        one["metadata"].pop("namespace")
    file = BUILD / "gateway.yaml"
    file.write_text(yaml.safe_dump_all([settings, deployment]))
    podman.podman("play", "kube", "--down", str(file), check=False)
    podman.podman("play", "kube", str(file))
    try:
        (name,) = podman.podman(
            "ps", "--filter", "name=gateway-", "--format", "{{.Names}}"
        ).stdout.split()[:1]
        container = podman.Container(
            next(
                n
                for n in podman.podman("ps", "--format", "{{.Names}}").stdout.split()
                if n.endswith("-gateway")
            )
        )

        def lives() -> bool:
            inside = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8080/livez').status)"
            return (
                "200"
                in podman.podman("exec", container.name, "python", "-c", inside, check=False).stdout
            )

        eventually(lives, 30, "liveness")
        eventually(lambda: "does not answer" in container.logs(), 30, "why it is not ready")
        assert name
    finally:
        podman.podman("play", "kube", "--down", str(file), check=False)
