"""Containers may take enough memory for the largest image that the settings allow."""

from typing import Any

import pytest
import yaml

from service.core.memory import memory_for_requests
from service.machine import CONTAINER_SHARE
from service.settings import Settings
from tests.support.compose import CPU, GPU, ROOT

MIB = 2**20
UNITS = {"M": MIB, "G": 2**30, "Mi": MIB, "Gi": 2**30}
MOST_BYTES_PER_PIXEL = 22  # a progressive CMYK JPEG, with its coefficients (imaging/jpeg.py)
POD: dict[str, Any] = next(
    yaml.safe_load_all((ROOT / "deploy/kubernetes/base/gateway.yaml").read_text())
)["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("limits", "at_rest"),
    [
        (CPU["gateway"]["deploy"]["resources"]["limits"], 600 * MIB),  # docs/containers.md
        (GPU["gateway"]["deploy"]["resources"]["limits"], 250 * MIB),
        (POD["resources"]["limits"], 250 * MIB),
    ],
    ids=["compose", "compose with a GPU", "kubernetes"],
)
def test_memory_limit_has_room_for_the_largest_image(limits: dict[str, str], at_rest: int) -> None:
    number = limits["memory"].rstrip("MGi")
    limit = int(number) * UNITS[limits["memory"].removeprefix(number)]
    settings = Settings.model_validate({"max_memory": int(limit * CONTAINER_SHARE)})
    for_images = memory_for_requests(settings, at_rest) // 2
    assert for_images > MOST_BYTES_PER_PIXEL * settings.max_pixels


def test_containers_leave_max_memory_to_their_limit() -> None:
    for container in (CPU["gateway"], GPU["gateway"]):
        assert "CHANNELTOK_MAX_MEMORY" not in container.get("environment", {})
    environment = (ROOT / "deploy/kubernetes/base/gateway-settings.env").read_text()
    assert "CHANNELTOK_MAX_MEMORY" not in environment
