"""Kubernetes manifests are valid by Kubernetes' schemas and consistent with the code."""

import copy
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import kubernetes_validate
import pytest
import yaml

from export import __main__ as export
from export.triton import tensorrt_plans
from service.rest.app import create_app
from service.settings import Settings
from tests.support.compose import GPU as COMPOSE
from tests.support.metrics import families
from tests.support.running import running

KUBERNETES = Path(__file__).parents[2] / "deploy/kubernetes"
BASE = KUBERNETES / "base"
# The oldest version whose preStop can sleep, and the newest with a schema.
VERSIONS = ("1.30", "1.37")
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((BASE / "kustomization.yaml").read_text())
ADAPTER: list[dict[str, Any]] = yaml.safe_load(
    (KUBERNETES / "prometheus-adapter.yaml").read_text()
)["rules"]["custom"]
(GENERATED,) = KUSTOMIZATION["configMapGenerator"]
SETTINGS = dict(
    line.split("=", 1)
    for file in GENERATED["envs"]
    for line in (BASE / file).read_text().splitlines()
    if line and not line.startswith("#")
)
OBJECTS: list[dict[str, Any]] = [
    *(
        document
        for file in KUSTOMIZATION["resources"]
        for document in yaml.safe_load_all((BASE / file).read_text())
    ),
    {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": GENERATED["name"]},
        "data": SETTINGS,
    },
]


def of(kind: str) -> dict[str, dict[str, Any]]:
    return {item["metadata"]["name"]: item for item in OBJECTS if item["kind"] == kind}


WORKLOADS = {**of("Deployment"), **of("StatefulSet")}
PODS = {name: workload["spec"]["template"]["spec"] for name, workload in WORKLOADS.items()}
CONTAINERS = {
    f"{name}/{container['name']}": container
    for name, pod in PODS.items()
    for container in (*pod.get("initContainers", []), *pod["containers"])
}


def selected(labels: dict[str, str]) -> list[str]:
    """Names of workloads whose pods have these labels."""
    return [
        name
        for name, workload in WORKLOADS.items()
        if labels.items() <= workload["spec"]["template"]["metadata"]["labels"].items()
    ]


def ports(workload: str) -> dict[str, int]:
    return {
        port["name"]: port["containerPort"]
        for container in PODS[workload]["containers"]
        for port in container["ports"]
    }


def kind_and_name(item: dict[str, Any]) -> str:
    return f"{item['kind']}-{item['metadata']['name']}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", OBJECTS, ids=kind_and_name)
def test_manifest_is_valid(manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def misspell(gateway: dict[str, Any]) -> None:
    gateway["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}


def mistype(gateway: dict[str, Any]) -> None:
    gateway["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = "forty"


def misplace(gateway: dict[str, Any]) -> None:
    gateway["spec"]["securityContext"] = gateway["spec"]["template"]["spec"].pop("securityContext")


def forget(gateway: dict[str, Any]) -> None:
    del gateway["spec"]["selector"]


@pytest.mark.parametrize("broken", [misspell, mistype, misplace, forget])
def test_broken_manifest_is_refused(broken: Callable[[dict[str, Any]], None]) -> None:
    gateway = copy.deepcopy(WORKLOADS["gateway"])
    broken(gateway)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(gateway, VERSIONS[0], strict=True)


def test_kustomization_lists_every_file() -> None:
    listed = {*KUSTOMIZATION["resources"], *GENERATED["envs"], "kustomization.yaml"}
    assert {file.name for file in BASE.iterdir()} == listed


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl to build the base")
def test_kustomize_builds_the_base() -> None:
    built = subprocess.run(
        ["kubectl", "kustomize", str(BASE)], capture_output=True, text=True, check=True
    ).stdout
    objects = list(yaml.safe_load_all(built))
    assert {kind_and_name(item) for item in objects if item["kind"] != "ConfigMap"} == {
        kind_and_name(item) for item in OBJECTS if item["kind"] != "ConfigMap"
    }
    assert {
        item["metadata"].get("namespace") for item in objects if item["kind"] != "Namespace"
    } == {*of("Namespace")}
    (settings,) = (item for item in objects if item["kind"] == "ConfigMap")
    assert settings["data"] == SETTINGS
    (gateway,) = (item for item in objects if kind_and_name(item) == "Deployment-gateway")
    assert gateway["spec"]["template"]["spec"]["containers"][0]["envFrom"] == [
        {"configMapRef": {"name": settings["metadata"]["name"]}}
    ]
    for item in objects:
        kubernetes_validate.validate(item, VERSIONS[0], strict=True)


def test_gateway_config_map_has_valid_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CONTAINERS["gateway/gateway"]["envFrom"] == [
        {"configMapRef": {"name": GENERATED["name"]}}
    ]
    for name, value in SETTINGS.items():
        assert name.removeprefix("CHANNELTOK_").lower() in Settings.model_fields
        monkeypatch.setenv(name, value)
    settings = Settings()  # validates them
    grace, sleep = (
        PODS["gateway"]["terminationGracePeriodSeconds"],
        CONTAINERS["gateway/gateway"]["lifecycle"]["preStop"]["sleep"]["seconds"],
    )
    assert grace > sleep + settings.drain_seconds + 5  # and time to exit
    assert settings.image_workers <= int(
        CONTAINERS["gateway/gateway"]["resources"]["limits"]["cpu"]
    )
    host, port = str(settings.triton_url).removeprefix("dns:///").split(":")
    assert int(port) in [item["port"] for item in of("Service")[host]["spec"]["ports"]]


def test_gateway_ports_match_its_settings() -> None:
    assert ports("gateway") == {"rest": Settings().rest_port, "grpc": Settings().grpc_port}
    for name, workload in WORKLOADS.items():
        scrape = workload["spec"]["template"]["metadata"]["annotations"]
        assert int(scrape["prometheus.io/port"]) in ports(name).values()


def test_selectors_match_their_workloads() -> None:
    for name, workload in WORKLOADS.items():
        assert selected(workload["spec"]["selector"]["matchLabels"]) == [name]
        for constraint in PODS[name].get("topologySpreadConstraints", []):
            assert selected(constraint["labelSelector"]["matchLabels"]) == [name]
    for name, budget in of("PodDisruptionBudget").items():
        assert selected(budget["spec"]["selector"]["matchLabels"]) == [name]
    for service in of("Service").values():
        (workload,) = selected(service["spec"]["selector"])
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports(workload).keys()
    assert WORKLOADS["triton"]["spec"]["serviceName"] in of("Service")
    assert [
        name
        for name, service in of("Service").items()
        if service["spec"].get("clusterIP") == "None"
    ] == ["gateway-grpc", "triton"]


def test_probes_use_existing_endpoints() -> None:
    nothing = cast(Any, None)
    app = create_app(*[nothing] * 4, Settings(), nothing, lambda: True, nothing)
    routes = {getattr(route, "path", "") for route in app.routes}
    gateway, triton = (CONTAINERS[name] for name in ("gateway/gateway", "triton/triton"))
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert gateway[kind]["httpGet"]["port"] in {port["name"] for port in gateway["ports"]}
        assert triton[kind]["grpc"]["port"] in {port["containerPort"] for port in triton["ports"]}
    assert {
        gateway[kind]["httpGet"]["path"]
        for kind in ("startupProbe", "livenessProbe", "readinessProbe")
    } == {
        "/livez",
        "/readyz",
    } & routes
    assert PODS["gateway"]["containers"][0]["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_autoscalers_use_existing_metrics() -> None:
    provided = {
        rule.get("name", {}).get("as", rule["seriesQuery"].partition("{")[0]) for rule in ADAPTER
    }
    for scaler in of("HorizontalPodAutoscaler").values():
        target = scaler["spec"]["scaleTargetRef"]
        assert WORKLOADS[target["name"]]["kind"] == target["kind"]
        assert "replicas" not in WORKLOADS[target["name"]]["spec"]
        assert {
            metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"]
        } <= provided
    queried = {
        name
        for rule in ADAPTER
        for name in re.findall(r"(\w+)\{", rule["seriesQuery"] + rule["metricsQuery"])
    }
    with running() as service:  # its page has the embedded Triton's metrics too
        assert queried
        assert queried - set(families(service)) == set()


def test_network_policies_let_only_gateway_and_prometheus_reach_triton() -> None:
    policies = of("NetworkPolicy")
    assert policies["default-deny"]["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }
    for name in WORKLOADS:
        assert selected(policies[name]["spec"]["podSelector"]["matchLabels"]) == [name]
        assert {
            port["port"] for rule in policies[name]["spec"]["ingress"] for port in rule["ports"]
        } <= ports(name).keys()
    inference, metrics = policies["triton"]["spec"]["ingress"]
    assert [port["port"] for port in inference["ports"]] == ["grpc"]
    assert [selected(peer["podSelector"]["matchLabels"]) for peer in inference["from"]] == [
        ["gateway"]
    ]
    assert [port["port"] for port in metrics["ports"]] == ["metrics"]
    assert all({"namespaceSelector", "podSelector"} == set(peer) for peer in metrics["from"])
    assert "egress" not in policies["triton"]["spec"]
    to_triton, _ = policies["gateway"]["spec"]["egress"]
    assert [port["port"] for port in to_triton["ports"]] == [ports("triton")["grpc"]]


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_are_pinned_bounded_and_hardened(name: str) -> None:
    container, pod = CONTAINERS[name], PODS[name.partition("/")[0]]
    assert container["image"] == COMPOSE[container["name"]]["image"]
    assert {"cpu", "memory"} <= set(container["resources"]["limits"])
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    hardened = container["securityContext"]
    assert (hardened["allowPrivilegeEscalation"], hardened["readOnlyRootFilesystem"]) == (
        False,
        True,
    )
    assert hardened["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    volumes = {volume["name"] for volume in pod["volumes"]} | {
        claim["metadata"]["name"]
        for claim in WORKLOADS[name.partition("/")[0]]["spec"].get("volumeClaimTemplates", [])
    }
    assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def words(text: str) -> Iterator[list[str]]:
    for part in text.split("&&"):
        yield shlex.split(part)


def test_triton_pod_runs_the_commands_of_the_compose_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exporting, copying = words(CONTAINERS["triton/graphs"]["command"][2])
    build = CONTAINERS["triton/engines"]["command"]
    check, server = words(CONTAINERS["triton/triton"]["command"][2])
    assert exporting[:3] == ["python", "-m", "export"]
    assert str(export.parse(exporting[3:]).repository) == build[3]
    assert copying[0] == "cp"
    assert (KUBERNETES.parents[1] / copying[1]).exists()
    assert check[1] == build[1] == copying[2]
    monkeypatch.setattr(tensorrt_plans, "detect_server", _refuse)
    for command in (build, check):
        with pytest.raises(SystemExit, match="no GPU here"):
            tensorrt_plans.main(command[2:])
    command = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", COMPOSE["triton"]["command"][2])
    *_, in_compose = words(command)
    assert set(in_compose) <= set(server)
    for name in ("triton/engines", "triton/triton"):
        assert CONTAINERS[name]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    exit_timeout = next(
        int(word.split("=")[1]) for word in server if word.startswith("--exit-timeout-secs=")
    )
    assert PODS["triton"]["terminationGracePeriodSeconds"] > exit_timeout


def _refuse() -> tensorrt_plans.Server:
    raise tensorrt_plans.PlanError("no GPU here")
