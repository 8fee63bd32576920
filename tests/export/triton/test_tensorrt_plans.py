"""Plans of another server, GPU, graph or profile are refused. Building needs a GPU."""

import hashlib
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from export.triton import repository, tensorrt_plans, triton_config
from export.triton.tensorrt_plans import PlanError, PlanRecord, Server

SERVER = Server(tensorrt="110106", compute_capability="8.6", image="26.07")


@pytest.fixture
def graphs(tmp_path: Path, encode: bytes) -> Path:
    repository.write(tmp_path / "graphs", "demo", [encode], triton_config.ENGINES["tensorrt"])
    return tmp_path / "graphs"


@pytest.fixture
def models(tmp_path: Path, graphs: Path) -> Path:
    """A repository as `build` writes it, with a fake plan."""
    source, version = graphs / "demo_encode", tmp_path / "models/demo_encode/1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_bytes((source / "config.pbtxt").read_bytes())
    (version / "model_sm86.plan").write_bytes(b"plan")
    graph_sha256 = hashlib.sha256((source / "1/model.onnx").read_bytes()).hexdigest()
    record = PlanRecord(
        graph_sha256, hashlib.sha256(b"plan").hexdigest(), tensorrt_plans.profile(source), SERVER
    )
    (version / "model_sm86.json").write_text(json.dumps(asdict(record)))
    return tmp_path / "models"


def test_check_accepts_a_plan_of_this_server(models: Path) -> None:
    tensorrt_plans.check(models, SERVER)


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (
            replace(SERVER, tensorrt="110200"),
            "TensorRT is 110200 and was 110106 when its plan was built",
        ),
        (replace(SERVER, image="26.08"), r"the image is 26\.08 and was 26\.07"),
        (
            replace(SERVER, compute_capability="8.9"),
            r"it has no plan for compute capability 8\.9, only model_sm86\.plan",
        ),
    ],
)
def test_check_refuses_a_plan_of_another_server(models: Path, server: Server, reason: str) -> None:
    with pytest.raises(PlanError, match=reason) as refused:
        tensorrt_plans.check(models, server)
    assert str(refused.value).startswith("demo_encode is not served: ")
    assert "Rebuild it: docker compose run --rm engines" in str(refused.value)


def test_check_refuses_a_plan_of_another_graph(models: Path) -> None:
    config = models / "demo_encode/config.pbtxt"
    text = config.read_text()
    digest = tensorrt_plans._parameter(models / "demo_encode", "graph_sha256")
    config.write_text(text.replace(digest, "0" * 64))
    with pytest.raises(PlanError, match=f"its graph is {'0' * 64} and was {digest}"):
        tensorrt_plans.check(models, SERVER)


def test_check_refuses_a_plan_of_another_profile(models: Path) -> None:
    config = models / "demo_encode/config.pbtxt"
    text = config.read_text()
    entry = 'key: "opt_batch"\n  value {\n    string_value: "%d"'
    assert entry % 32 in text
    config.write_text(text.replace(entry % 32, entry % 8))
    with pytest.raises(
        PlanError,
        match=r"its profile is .*optShapes=picture:8x128x128x3.* and was .*optShapes=picture:32x",
    ):
        tensorrt_plans.check(models, SERVER)


def test_check_refuses_a_swapped_plan(models: Path) -> None:
    (models / "demo_encode/1/model_sm86.plan").write_bytes(b"someone else's code")
    with pytest.raises(PlanError, match="the plan's own digest"):
        tensorrt_plans.check(models, SERVER)


@pytest.mark.parametrize("record", ["", "{}", '{"server": 1}'])
def test_check_refuses_a_plan_without_a_record(models: Path, record: str) -> None:
    (models / "demo_encode/1/model_sm86.json").write_text(record)
    with pytest.raises(PlanError, match="the record beside its plan is missing or unreadable"):
        tensorrt_plans.check(models, SERVER)


def test_build_and_check_refuse_an_empty_repository(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="holds no models"):
        tensorrt_plans.check(tmp_path, SERVER)
    with pytest.raises(PlanError, match="holds no models: write them with `python -m export gpu`"):
        tensorrt_plans.build(tmp_path, tmp_path / "models", SERVER)


def test_build_keeps_matching_plans(
    graphs: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (models / "gone").mkdir()
    tensorrt_plans.build(graphs, models, SERVER)
    assert capsys.readouterr().out == "demo_encode: built already\n"
    assert [path.name for path in models.iterdir()] == ["demo_encode"]


def test_build_keeps_the_old_plan_when_it_fails(
    graphs: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_plans, "TRTEXEC", "/bin/false")
    with pytest.raises(PlanError, match="TensorRT did not build demo_encode"):
        tensorrt_plans.build(graphs, models, replace(SERVER, image="26.08"))
    tensorrt_plans.check(models, SERVER)


def test_build_refuses_a_graph_that_its_config_does_not_describe(
    graphs: Path, tmp_path: Path
) -> None:
    with (graphs / "demo_encode/1/model.onnx").open("ab") as file:
        file.write(b"more")
    with pytest.raises(PlanError, match=r"is not the graph that its config\.pbtxt describes"):
        tensorrt_plans.build(graphs, tmp_path / "empty", SERVER)


def test_command_without_tensorrt_says_where_to_run(tmp_path: Path) -> None:
    # Isolated and without site-packages: NVIDIA's image has only the standard library.
    script = subprocess.run(
        [sys.executable, "-IS", tensorrt_plans.__file__, "check", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert script.returncode == 1
    assert (
        script.stderr
        == f"{tensorrt_plans.TRTEXEC} is missing: run this inside NVIDIA's Triton image, "
        "on a host with a GPU\n"
    )
