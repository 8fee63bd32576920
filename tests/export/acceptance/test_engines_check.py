"""NVIDIA's compiler compiles the demo's graphs and rejects the control."""

import json
from pathlib import Path

import pytest

from export.acceptance import engines_check
from export.triton import repository, triton_config


def test_control_does_not_compile() -> None:
    with pytest.raises(engines_check.CompileError, match="Unique"):
        engines_check.compile_graph(engines_check.unsupported_graph(), ((1,), (1,), (1,)))


def test_compile_graph_rejects_an_impossible_profile(decodes: dict[int, bytes]) -> None:
    with pytest.raises(engines_check.CompileError):
        engines_check.compile_graph(decodes[32], ((1, 33), (2, 33), (4, 33)))


def test_command_compiles_each_model_and_writes_figures(
    tmp_path: Path,
    encode: bytes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    repository.write(tmp_path / "models", "demo", [encode], triton_config.ENGINES["tensorrt"])
    engines_check.main(["models"])
    report = json.loads((tmp_path / "build/engines-check.json").read_text())
    assert report["models"] == 1
    assert report["failed"] == 0
    assert report["demo_encode_bytes"] > 1e6
    assert "the control does not compile, as expected" in capsys.readouterr().out


def test_command_fails_for_a_graph_that_does_not_compile(
    tmp_path: Path, encode: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    repository.write(tmp_path / "models", "demo", [encode], triton_config.ENGINES["tensorrt"])
    (tmp_path / "models/demo_encode/1/model.onnx").write_bytes(engines_check.unsupported_graph())
    with pytest.raises(SystemExit, match="demo_encode does not compile: "):
        engines_check.main(["models"])
