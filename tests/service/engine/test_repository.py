"""Which folders of a repository are models, and what their configs become on this machine."""

from pathlib import Path
from typing import Any

import pytest

from service.engine.cpu import processor_has_avx512
from service.engine.repository import model_folders, parse_config, read_config, strays
from service.errors import CannotStart
from service.settings import Settings
from tests.support.running import ROOT

SHIPPED = ROOT / "model_repository"


def test_model_folders_passes_over_everything_else(tmp_path: Path) -> None:
    for name in ("demo_encode", "demo decode", "d\u00e9mo", ".hidden"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").touch()
    for name in (".git", "lost+found", "__pycache__", "half"):
        (tmp_path / name).mkdir()
    (tmp_path / "half/config.pbtxt").mkdir()
    (tmp_path / "README").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "linked").symlink_to(SHIPPED / "demo_encode")
    assert [folder.name for folder in model_folders(tmp_path)] == ["demo_encode", "linked"]
    everything = {entry.name for entry in tmp_path.iterdir()}
    assert set(strays(tmp_path)) == everything - {"demo_encode", "linked"}


def test_model_folders_is_empty_for_a_repository_that_vanished(tmp_path: Path) -> None:
    assert model_folders(tmp_path / "gone") == strays(tmp_path / "gone") == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('name: "mod', "cannot be read"),
        ("\u00e9".encode("latin-1"), "cannot be read"),
        ('name: "other"\nbackend: "python"', "is of a model called 'other'"),
        ('name: "model"', "names no backend"),
    ],
)
def test_parse_config_says_what_is_wrong(tmp_path: Path, text: str | bytes, why: str) -> None:
    (tmp_path / "model").mkdir()
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "model/config.pbtxt").write_bytes(content)
    with pytest.raises(CannotStart, match=rf"model/config\.pbtxt {why}"):
        parse_config(tmp_path / "model")


def test_read_config_leaves_models_of_others_alone(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.pbtxt").write_text('name: "model"\nbackend: "python"')
    assert read_config(tmp_path / "model", Settings()) == parse_config(tmp_path / "model")


def test_read_config_adds_what_this_machine_decides() -> None:
    settings = Settings(engine_instances=3, engine_threads=2, engine_threads_alone=4)
    config = read_config(SHIPPED / "demo_encode", settings)
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    assert (parameters["engine"], parameters["precision"]) == (
        "openvino" if processor_has_avx512() else "onnxruntime",
        "f32",
    )
    assert (parameters["threads"], parameters["lone_threads"]) == ("2", "4")
    others, lone = config.instance_group
    assert (others.count, lone.count, lone.name) == (2, 1, "lone")
    assert others.rate_limiter.priority > lone.rate_limiter.priority
    for group in (others, lone):
        assert [resource.name for resource in group.rate_limiter.resources] == ["cores"]


@pytest.mark.parametrize(
    ("settings", "groups"),
    [
        ({"engine_instances": 1, "engine_threads_alone": 2}, [("lone", 1)]),
        ({"engine_instances": 2, "engine_threads_alone": 1}, [("", 2)]),
        (
            {"engine_instances": 2, "engine_threads_alone": 2, "engine": "openvino"},
            [("", 1), ("lone", 1)],
        ),
        (
            {"engine_instances": 2, "engine_threads_alone": 2, "encode_precision": "bf16"},
            [("", 2)],
        ),
    ],
)
def test_read_config_has_a_lone_instance_where_it_helps(
    settings: dict[str, Any], groups: list[tuple[str, int]]
) -> None:
    config = read_config(SHIPPED / "demo_encode", Settings(**settings))
    assert [(group.name, group.count) for group in config.instance_group] == groups


def test_read_config_needs_the_graph_of_the_precision() -> None:
    with pytest.raises(CannotStart, match="demo_decode_k256 has no int8 graph"):
        read_config(SHIPPED / "demo_decode_k256", Settings(decode_precision="int8"))
