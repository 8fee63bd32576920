"""docker-compose.yml promises what the README says of it. Its schema is checked by `make check`; that it runs takes a GPU host."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from export import __main__ as export_command
from export import plans
from service.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
ONE_SHOT = {"graphs", "engines"}


def test_only_the_gateway_is_published_and_triton_cannot_reach_the_world() -> None:
    assert [name for name, service in SERVICES.items() if service.get("ports")] == ["gateway"]
    assert [name for name, service in SERVICES.items() if service["networks"] != ["private"]] == ["gateway"]
    assert COMPOSE["networks"]["private"]["internal"] is True
    assert all(port.startswith("${CHANNELTOK_BIND:-127.0.0.1}:") for port in SERVICES["gateway"]["ports"])


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_pinned_bounded_and_hardened(name: str) -> None:
    service = SERVICES[name]
    image, _, tag = service["image"].rpartition(":")
    assert image
    assert tag[0].isdigit() or tag[0] == "v"
    assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"])
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("user", "1000:1000").split(":")[0] != "0"
    assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")
    if name not in ONE_SHOT and "build" not in service:
        assert service["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_exists(name: str) -> None:
    for mount in SERVICES[name].get("volumes", []):
        source = mount.split(":")[0]
        assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


def test_plans_are_built_and_checked_in_the_image_that_serves_them(monkeypatch: pytest.MonkeyPatch) -> None:
    engines, triton = SERVICES["engines"], SERVICES["triton"]
    assert engines["image"] == triton["image"]
    assert engines["user"] == triton["user"]
    check, _, server = triton["command"][2].partition(" && ")
    commands = [engines["command"], shlex.split(check)]
    assert server.startswith("exec tritonserver ")
    for command in commands:
        assert command[:2] == ["python3", "/opt/channeltok/plans.py"]
        monkeypatch.setattr(plans, "this_server", _refuse)
        with pytest.raises(SystemExit, match="far enough"):
            plans.main(command[2:])


def test_the_graphs_go_where_the_engines_look() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    entrypoint = dockerfile.rpartition("ENTRYPOINT ")[2].strip()
    options = export_command._options(yaml.safe_load(entrypoint)[3:])
    assert str(options.repository) == SERVICES["engines"]["command"][3]
    assert options.checkpoint.exists()


def test_the_gateway_is_told_of_triton_by_settings_it_has() -> None:
    for name in SERVICES["gateway"]["environment"]:
        assert name.removeprefix("CHANNELTOK_").lower() in Settings.model_fields


def _refuse() -> plans.Server:
    raise plans.Refused("far enough")
