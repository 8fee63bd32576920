"""`python -m tests.containers.images`: build our images and replacements for third-party ones.

Layers are cached, so that this takes seconds when nothing changed.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from tests.containers import podman
from tests.containers.podman import BUILD, ROOT

HERE = Path(__file__).parent
REPORT = BUILD / "report.json"
TARGETS = ("gateway", "cpu", "loadtest", "export")


def note(image: str, **figures: Any) -> None:
    """Add figures of an image to the report."""
    report = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    report.setdefault(image, {}).update(figures)
    REPORT.write_text(json.dumps(report, indent=2) + "\n")


def name_of(service: str, file: str = "docker-compose.yml") -> str:
    """The image of a service in a compose file."""
    image: str = yaml.safe_load((ROOT / file).read_text())["services"][service]["image"]
    return image


def build_ours(target: str) -> str:
    """Build a stage of our Dockerfile from the working tree. Returns the image's name."""
    name = f"channeltok-{target}:{name_of('gateway').rpartition(':')[2]}"
    # pip's configured index: PyTorch's own may be out of reach.
    options = ["--build-arg", f"TORCH_INDEX={podman.package_index()}"] if target == "export" else []
    seconds = podman.build(target, name, *options)
    (size,) = json.loads(podman.podman("image", "inspect", "--format", "[{{.Size}}]", name).stdout)
    note(target, build_seconds=round(seconds), size_mb=round(size / 1e6))
    return name


def build_triton() -> str:
    """Build a replacement for NVIDIA's Triton from the image `cpu`. Returns the image's name."""
    name = name_of("triton", "docker-compose.gpu.yml")
    podman.build_folder(HERE / "triton", name)
    return name


def build_prometheus() -> str:
    """Build a replacement for Prometheus's image from `make build/prometheus`; returns its name."""
    name = f"docker.io/{name_of('prometheus')}"
    context = BUILD / "prometheus"
    shutil.copytree(HERE / "prometheus", context, dirs_exist_ok=True)
    for program in ("prometheus", "promtool"):
        shutil.copy2(ROOT / "build/prometheus" / program, context)
    podman.build_folder(context, name)
    return name


if __name__ == "__main__":
    podman.prepare()
    for target in TARGETS:
        print(build_ours(target), flush=True)
    print(build_triton(), build_prometheus(), sep="\n")
