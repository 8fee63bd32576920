"""The images, built once; what was measured of them, for docs/containers.md."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.containers import podman
from tests.containers.podman import BUILD, ROOT

VERSION = "0.1.0"
NETWORK = "channeltok-check"
HERE = Path(__file__).parent
REPORT = BUILD / "report.json"


@pytest.fixture(scope="session", autouse=True)
def prepared() -> None:
    """Podman and the base image."""
    podman.prepare()


def built(target: str, *options: str) -> str:
    """An image of ours from the working tree, by the name that compose gives it."""
    name = f"channeltok-{target}:{VERSION}"
    seconds = podman.build(target, name, *options)
    (size,) = json.loads(podman.podman("image", "inspect", "--format", "[{{.Size}}]", name).stdout)
    note(target, build_seconds=round(seconds), size_mb=round(size / 1e6))
    return name


@pytest.fixture(scope="session")
def cpu_image(prepared: None) -> str:
    return built("cpu")


@pytest.fixture(scope="session")
def gateway_image(prepared: None) -> str:
    return built("gateway")


@pytest.fixture(scope="session")
def loadtest_image(prepared: None) -> str:
    return built("loadtest")


@pytest.fixture(scope="session")
def export_image(prepared: None) -> str:
    # Wherever pip finds its packages: PyTorch's own index may be out of reach.
    return built("export", "--build-arg", f"TORCH_INDEX={podman.package_index()}")


@pytest.fixture(scope="session")
def triton_image(cpu_image: str) -> str:
    """Stands in for NVIDIA's, under its name."""
    name = _image_of("triton", "docker-compose.gpu.yml")
    podman.build_whole(HERE / "triton", name)
    return name


@pytest.fixture(scope="session")
def prometheus_image(prepared: None) -> str:
    """Debian's, under the name of Prometheus's own."""
    name = f"docker.io/{_image_of('prometheus', 'docker-compose.yml')}"
    context = BUILD / "prometheus"
    shutil.copytree(HERE / "prometheus", context, dirs_exist_ok=True)
    for program in ("prometheus", "promtool"):
        shutil.copy2(ROOT / "build/prometheus" / program, context)
    podman.build_whole(context, name)
    return name


def _image_of(service: str, file: str) -> str:
    image: str = yaml.safe_load((ROOT / file).read_text())["services"][service]["image"]
    return image


def note(image: str, **figures: Any) -> None:
    """Keep figures of an image in the report."""
    report = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    report.setdefault(image, {}).update(figures)
    REPORT.write_text(json.dumps(report, indent=2) + "\n")


@pytest.fixture(scope="session")
def network(prepared: None) -> Iterator[str]:
    """A bridge network on which containers find each other by name, and this machine finds them by address."""
    podman.podman("network", "rm", "-f", NETWORK, check=False)
    podman.podman("network", "create", NETWORK)
    yield NETWORK
    podman.podman("network", "rm", "-f", NETWORK, check=False)


def eventually(holds: Any, seconds: float, what: str, every: float = 0.1) -> float:
    """Wait until `holds()` is true. Returns the seconds that took; AssertionError when it took too long."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < seconds, f"not within {seconds} s: {what}"
        time.sleep(every)
    return time.monotonic() - started
