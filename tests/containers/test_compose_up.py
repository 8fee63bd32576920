"""docker-compose.yml through podman-compose: the README's commands start a service that answers.

Not covered: Grafana, whose image has no replacement, and conditions of `depends_on`, for which
podman needs systemd: services are started in their order.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.containers import podman
from tests.containers.conftest import eventually
from tests.containers.images import note
from tests.containers.podman import BUILD, ROOT

pytestmark = pytest.mark.containers
REST = "http://127.0.0.1:8080"
CPU = ("docker-compose.yml",)
GPU = ("docker-compose.yml", "docker-compose.gpu.yml")
DOWN_SECONDS = 10


def compose(files: tuple[str, ...], *arguments: str) -> str:
    """Run podman-compose on our files, in the checkout."""
    command = [sys.executable, "-m", "podman_compose", "--in-pod", "false"]
    command += [option for file in files for option in ("-f", str(file))]
    return podman.run(*command, *arguments, timeout=300).stdout


def up(files: tuple[str, ...], *services: str) -> None:
    """Start services, also of a profile, without their dependencies."""
    compose(files, "--profile", "loadtest", "up", "-d", "--no-build", "--no-deps", *services)


def is_ready() -> bool:
    """Whether the published port reports readiness."""
    try:
        return httpx.get(f"{REST}/readyz", timeout=2, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def readme_commands() -> list[str]:
    """The two curl commands under REST."""
    block = (
        (ROOT / "README.md")
        .read_text()
        .partition("**REST.**")[2]
        .partition("```sh\n")[2]
        .partition("```")[0]
    )
    return block.splitlines()


def run_readme_commands(folder: Path) -> None:
    """Run both curl commands as written."""
    commands = readme_commands()
    assert len(commands) == 2
    (folder / "docs").symlink_to(ROOT / "docs")
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert len(json.loads((folder / "cat.json").read_text())["tokens"]) > 0
    assert (folder / "back.png").read_bytes().startswith(b"\x89PNG")


def query_prometheus(expression: str, check: bool = False) -> str:
    """promtool's output for an instant query."""
    query = ["promtool", "query", "instant", "http://127.0.0.1:9090", expression]
    return podman.podman("exec", "channeltok_prometheus_1", *query, check=check).stdout


@pytest.fixture(autouse=True)
def cleanup() -> Iterator[None]:
    """Remove containers, networks and volumes after each test."""
    yield
    compose(GPU, "--profile", "loadtest", "down", "-v", "-t", "1")


@pytest.mark.usefixtures("cpu_image", "prometheus_image")
def test_compose_serves_on_a_cpu(tmp_path: Path) -> None:
    started = time.monotonic()
    up(CPU, "gateway", "prometheus")
    eventually(is_ready, 60, "readiness")
    note("cpu", compose_ready_seconds=round(time.monotonic() - started, 1))
    run_readme_commands(tmp_path)

    def scraped() -> bool:
        return "=> 1 @" in query_prometheus('up{job="gateway"}')

    eventually(scraped, 60, "Prometheus's first scrape of the gateway", every=1)
    assert query_prometheus("count(up == 0)", check=True).strip() == ""
    started = time.monotonic()
    compose(CPU, "down")
    assert time.monotonic() - started < DOWN_SECONDS


@pytest.mark.usefixtures("cpu_image", "loadtest_image")
def test_load_generator_loads_the_gateway_from_its_web_ui() -> None:
    up(CPU, "gateway")
    eventually(is_ready, 60, "readiness")
    up(CPU, "loadtest", "loadtest-worker")
    with httpx.Client(base_url="http://127.0.0.1:8089", trust_env=False) as ui:

        def workers() -> int:
            try:
                return len(ui.get("/stats/requests").json()["workers"])
            except (httpx.TransportError, ValueError):
                return 0

        eventually(lambda: workers() >= 1, 60, "a worker")
        ui.post("/swarm", data={"user_count": 4, "spawn_rate": 4}).raise_for_status()

        def total() -> dict[str, float]:
            (last,) = [
                row
                for row in ui.get("/stats/requests").json()["stats"]
                if row["name"] == "Aggregated"
            ]
            return dict(last)

        eventually(lambda: total()["num_requests"] > 20, 60, "20 requests")
        assert total()["num_failures"] == 0
        ui.post("/stop").raise_for_status()


@pytest.mark.usefixtures("export_image", "gateway_image", "triton_image", "prometheus_image")
def test_gpu_stack_serves_with_a_triton_on_the_cpu(tmp_path: Path) -> None:
    """The real export image writes graphs; plans are neither built nor checked."""
    without_gpu = BUILD / "without-gpu.yml"  # there is no GPU to reserve
    services = yaml.safe_load((ROOT / GPU[1]).read_text())["services"]
    reserving = [
        name
        for name, service in services.items()
        if "reservations" in service.get("deploy", {}).get("resources", {})
    ]
    lines = [
        f"  {name}:\n    deploy:\n      resources:\n        reservations: !reset null\n"
        for name in reserving
    ]
    without_gpu.write_text("services:\n" + "".join(lines))
    files = (*GPU, str(without_gpu))
    started = time.monotonic()
    compose(files, "run", "--rm", "--no-deps", "graphs")
    note("export", graphs_seconds=round(time.monotonic() - started))
    volume = podman.podman(
        "volume", "inspect", "--format", "{{.Mountpoint}}", "channeltok_graphs"
    ).stdout.strip()
    graphs = {path.parents[1].name for path in Path(volume).glob("models/*/1/model.onnx")}
    assert graphs == {"demo_encode", *(f"demo_decode_k{k}" for k in (32, 64, 128, 256))}
    compose(files, "run", "--rm", "--no-deps", "engines")
    up(files, "triton", "gateway", "prometheus")
    eventually(is_ready, 60, "readiness")
    assert podman.podman("healthcheck", "run", "channeltok_triton_1", check=False).returncode == 0
    run_readme_commands(tmp_path)

    def both_scraped() -> bool:
        return "=> 2 @" in query_prometheus("sum(up)")

    eventually(both_scraped, 60, "Prometheus's first scrape of gateway and Triton", every=1)
    published = [
        podman.podman("port", f"channeltok_{name}_1").stdout for name in ("triton", "prometheus")
    ]
    assert published == ["", ""]
