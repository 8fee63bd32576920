"""Compose files and Dockerfile: published ports, hardening, pinned images and wired commands.

`make check` validates their schema, and tests/containers runs them, without TensorRT and a GPU.
"""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from export import __main__ as export
from export.acceptance import served
from export.triton import tensorrt_plans
from service.settings import Settings
from tests.support.compose import BASE, COMPOSE, CPU, GPU, OVERRIDE, ROOT

SERVICES = GPU
DOCKERFILE = (ROOT / "Dockerfile").read_text()
ONE_SHOT = {"graphs", "engines", "acceptance"}
PROFILES = {"loadtest": ["loadtest"], "loadtest-worker": ["loadtest"], "acceptance": ["acceptance"]}


def test_compose_starts_three_services_without_a_gpu() -> None:
    by_default = {name: service for name, service in CPU.items() if "profiles" not in service}
    assert set(by_default) == {"gateway", "prometheus", "grafana"}
    assert CPU["gateway"]["build"]["target"] == "cpu"
    assert CPU["gateway"]["environment"].keys() == {"CHANNELTOK_ALLOWED_HOSTS"}  # no Triton's URL
    assert "devices" not in str(BASE)
    assert OVERRIDE["x-hardened"] == BASE["x-hardened"]  # YAML anchors end with their file


def test_services_limit_themselves_to_one_cpu() -> None:
    for service in GPU.values():
        assert float(service["deploy"]["resources"]["limits"].get("cpus", 0)) <= 1


def test_compose_publishes_only_gateway_and_grafana_and_isolates_triton() -> None:
    by_default = {name: service for name, service in SERVICES.items() if "profiles" not in service}
    assert [name for name, service in by_default.items() if service.get("ports")] == [
        "gateway",
        "grafana",
    ]
    assert [name for name, service in by_default.items() if service["networks"] != ["private"]] == [
        "gateway",
        "grafana",
    ]
    assert COMPOSE["networks"]["private"]["internal"] is True
    ports = {name: port for name, service in SERVICES.items() for port in service.get("ports", [])}
    assert ports.pop("grafana") == "127.0.0.1:${CHANNELTOK_GRAFANA_PORT:-3000}:3000"
    assert all(port.startswith("${CHANNELTOK_BIND:-127.0.0.1}:") for port in ports.values())


def test_grafana_is_anonymous_and_has_a_network_of_its_own() -> None:
    grafana = SERVICES["grafana"]
    settings = grafana["environment"]
    assert (settings["GF_AUTH_ANONYMOUS_ENABLED"], settings["GF_AUTH_ANONYMOUS_ORG_ROLE"]) == (
        "true",
        "Viewer",
    )
    assert (
        settings["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"]
        == settings["GF_AUTH_DISABLE_LOGIN_FORM"]
        == "true"
    )
    assert settings["GF_AUTH_BASIC_ENABLED"] == "false"
    assert [name for name, service in SERVICES.items() if "operators" in service["networks"]] == [
        "grafana"
    ]
    home = settings["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / home.replace("/etc/grafana", "deploy/grafana")).exists()


def test_load_generator_needs_its_profile_and_reaches_only_the_gateway() -> None:
    assert {
        name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service
    } == PROFILES
    loadtest = SERVICES["loadtest"]
    reachable = [
        name
        for name, service in SERVICES.items()
        if set(service["networks"]) & set(loadtest["networks"])
    ]
    assert reachable == ["gateway", "loadtest", "loadtest-worker"]
    ports = {port.rpartition(":")[2] for port in SERVICES["gateway"]["ports"]}
    addresses = {name: loadtest["environment"][name] for name in ("LOCUST_HOST", "LOCUST_GRPC")}
    targets = {name: value.removeprefix("http://").split(":") for name, value in addresses.items()}
    assert targets == {"LOCUST_HOST": ["gateway", "8080"], "LOCUST_GRPC": ["gateway", "50051"]}
    assert {port for _, port in targets.values()} == ports


def test_load_generator_runs_the_files_of_make_loadtest() -> None:
    assert _entrypoint("loadtest")[:3] == ["python", "-m", "locust"]
    master, worker = SERVICES["loadtest"], SERVICES["loadtest-worker"]
    locustfile, shapes = master["environment"]["LOCUST_LOCUSTFILE"].split(",")
    assert f"ENV LOCUST_LOCUSTFILE={locustfile}\n" in _stage("loadtest")
    files = f"LOCUSTFILES = {locustfile}$(if $(SHAPE),$(comma){shapes}/$(SHAPE).py)\n"
    assert files in (ROOT / "Makefile").read_text()
    assert (ROOT / locustfile).exists()
    assert {path.stem for path in (ROOT / shapes).glob("[!_]*.py")} == {"ramp", "spike", "soak"}
    assert master["command"] == ["--master", "--class-picker"]
    assert worker["command"] == ["--worker", "--master-host", "loadtest"]
    assert (worker["image"], worker["environment"]) == (master["image"], master["environment"])


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_pinned_bounded_and_hardened(name: str) -> None:
    service = SERVICES[name]
    image, _, tag = service["image"].rpartition(":")
    assert image
    assert tag[0].isdigit() or tag[0] == "v"
    assert "memory" in service["deploy"]["resources"]["limits"]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("user", "1000:1000").split(":")[0] != "0"
    assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")
    if service["image"].partition("/")[0] != service["image"] and name not in ONE_SHOT:
        assert service["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", SERVICES)
def test_mounted_files_exist(name: str) -> None:
    for mount in SERVICES[name].get("volumes", []):
        source = re.sub(r"\$\{\w+:-(.*)\}", r"\1", mount).split(":")[0]
        created_by_make = source.startswith("./build/")
        assert created_by_make or (
            (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
        )


def test_plans_are_built_and_checked_in_the_serving_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engines, triton = SERVICES["engines"], SERVICES["triton"]
    assert engines["image"] == triton["image"]
    assert engines["user"] == triton["user"]
    check, _, server = triton["command"][2].partition(" && ")
    commands = [engines["command"], shlex.split(check)]
    assert server.startswith("exec tritonserver ")
    for command in commands:
        assert command[:2] == ["python3", "/opt/channeltok/plans.py"]
        monkeypatch.setattr(tensorrt_plans, "detect_server", _refuse)
        with pytest.raises(SystemExit, match="no GPU here"):
            tensorrt_plans.main(command[2:])


def test_nobody_loads_models_into_triton_but_the_acceptance() -> None:
    """Models are code. CHANNELTOK_TRITON_CONTROL has the options of `make gpu-acceptance`."""
    command = SERVICES["triton"]["command"][2]
    assert "${CHANNELTOK_TRITON_CONTROL:---model-control-mode=none}" in command
    assert command.count("--model-control-mode") == 1
    assert "--allow-http=false" in command
    makefile = (ROOT / "Makefile").read_text()
    options = 'CHANNELTOK_TRITON_CONTROL="--model-control-mode=explicit --load-model=*"'
    assert options in makefile.partition("\ngpu-acceptance:")[2].partition("\n\n")[0]


def test_engines_read_the_folder_that_graphs_writes() -> None:
    options = export.parse(_entrypoint("export")[3:])
    assert str(options.repository) == SERVICES["engines"]["command"][3]
    assert options.checkpoint.exists()


def test_acceptance_uses_the_served_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    command = served._options(SERVICES["acceptance"]["command"])
    graphs = export.parse(_entrypoint("export")[3:])
    assert command.checkpoint.resolve() == graphs.checkpoint
    assert command.repository == graphs.repository
    mounts = {
        mount.rpartition(":")[0].rpartition(":")[2] or mount
        for mount in SERVICES["acceptance"]["volumes"]
    }
    assert command.data in mounts
    assert command.triton == "triton:8001"


def test_gateway_environment_names_existing_settings() -> None:
    for name in SERVICES["gateway"]["environment"]:
        assert name.removeprefix("CHANNELTOK_").lower() in Settings.model_fields


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if "build" in service])
def test_images_have_a_health_check_or_end_and_do_not_run_as_root(name: str) -> None:
    stage = _stage(SERVICES[name]["build"]["target"])
    whole = stage + (_stage("service") if stage.startswith("FROM service ") else "")
    assert ("\nHEALTHCHECK " in whole) == (name not in ONE_SHOT)
    assert re.search(r"^USER [1-9]\d*:", stage, re.MULTILINE)


def test_dockerfile_copies_existing_files_that_are_not_ignored() -> None:
    not_ignored = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for source in sources.split():
            # A whole folder may be in the context, and a file of it copied.
            assert {source, *map(str, Path(source).parents)} & not_ignored
            assert list(ROOT.glob(source))


def _stage(target: str) -> str:
    (stage,) = re.findall(
        rf"^FROM \S+ AS {target}$.*?(?=^FROM|\Z)", DOCKERFILE, re.DOTALL | re.MULTILINE
    )
    return str(stage)


def _entrypoint(target: str) -> list[str]:
    command: list[str] = yaml.safe_load(_stage(target).rpartition("ENTRYPOINT ")[2])
    return command


def _refuse() -> tensorrt_plans.Server:
    raise tensorrt_plans.PlanError("no GPU here")
