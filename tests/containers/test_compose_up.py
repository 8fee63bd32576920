"""docker-compose.yml itself, through podman-compose: what README tells a newcomer to type ends in a service that answers.

Not here: Grafana, whose image has no stand-in, and conditions of `depends_on`, for which podman needs systemd; services are started in
their order.
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
    """podman-compose on our files, from the checkout."""
    command = [sys.executable, "-m", "podman_compose", "--in-pod", "false"]
    command += [option for file in files for option in ("-f", str(file))]
    return podman.run(*command, *arguments, timeout=300).stdout


def up(files: tuple[str, ...], *services: str) -> None:
    """Start services, those of a profile too, without what they depend on."""
    compose(files, "--profile", "loadtest", "up", "-d", "--no-build", "--no-deps", *services)


def is_ready() -> bool:
    """What the published port says."""
    try:
        return httpx.get(f"{REST}/readyz", timeout=2, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def commands_of_the_readme() -> list[str]:
    """The two curls under REST."""
    block = (
        (ROOT / "README.md")
        .read_text()
        .partition("**REST.**")[2]
        .partition("```sh\n")[2]
        .partition("```")[0]
    )
    return block.splitlines()


def run_the_readme(folder: Path) -> None:
    """Both curls, as they stand there."""
    commands = commands_of_the_readme()
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


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Containers, networks and volumes of a test are gone after it."""
    yield
    compose(GPU, "--profile", "loadtest", "down", "-v", "-t", "1")


@pytest.mark.usefixtures("cpu_image", "prometheus_image")
def test_compose_up_serves_without_a_gpu(tmp_path: Path) -> None:
    started = time.monotonic()
    up(CPU, "gateway", "prometheus")
    eventually(is_ready, 60, "readiness")
    note("cpu", compose_ready_seconds=round(time.monotonic() - started, 1))
    run_the_readme(tmp_path)

    def scraped() -> bool:
        asked = [
            "exec",
            "channeltok_prometheus_1",
            "promtool",
            "query",
            "instant",
            "http://127.0.0.1:9090",
            'up{job="gateway"}',
        ]
        return "=> 1 @" in podman.podman(*asked, check=False).stdout

    eventually(scraped, 60, "Prometheus's first scrape of the gateway", every=1)
    targets = [
        "exec",
        "channeltok_prometheus_1",
        "promtool",
        "query",
        "instant",
        "http://127.0.0.1:9090",
        "count(up == 0)",
    ]
    assert podman.podman(*targets).stdout.strip() == ""
    started = time.monotonic()
    compose(CPU, "down")
    assert time.monotonic() - started < DOWN_SECONDS


@pytest.mark.usefixtures("cpu_image", "loadtest_image")
def test_the_load_generator_of_compose_loads_the_gateway_from_its_web_ui() -> None:
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
def test_the_gpu_stack_serves_beside_a_triton_on_the_cpu(tmp_path: Path) -> None:
    """Graphs by the real export image; plans are neither built nor checked; Triton and gateway as they are wired there."""
    without_gpu = BUILD / "without-gpu.yml"  # this machine has none to reserve
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
    run_the_readme(tmp_path)

    def both_scraped() -> bool:
        asked = [
            "exec",
            "channeltok_prometheus_1",
            "promtool",
            "query",
            "instant",
            "http://127.0.0.1:9090",
            "sum(up)",
        ]
        return "=> 2 @" in podman.podman(*asked, check=False).stdout

    eventually(both_scraped, 60, "Prometheus's first scrape of gateway and Triton", every=1)
    published = [
        podman.podman("port", f"channeltok_{name}_1").stdout for name in ("triton", "prometheus")
    ]
    assert published == ["", ""]
