"""No process connects elsewhere by itself or writes to the home folder (docs/decisions/0035)."""

import sys
from pathlib import Path

import pytest
from channeltok import Client

from tests.support.network_trace import NetworkTrace, assert_stays_here, files, home, outside
from tests.support.photographs import jpeg
from tests.support.running import running

__all__ = ["home"]
ENGINES = ("onnxruntime", "openvino")


@pytest.mark.parametrize("engine", ENGINES)
def test_the_service(engine: str, home: Path, tmp_path: Path) -> None:
    trace = NetworkTrace(tmp_path / "trace")
    with running(under=trace.command, engine=engine) as service:
        with Client(service.grpc, timeout=60) as client:
            client.decode(client.encode(jpeg()))
        assert service.stop() == 0
    lines = trace.lines(service.process.pid)
    assert sum("connect(" in line for line in lines) > 1  # the gateway's to Triton, at least
    assert outside(lines) == []
    assert files(home) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_the_engine_in_process(
    engine: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHANNELTOK_ENGINE", engine)
    (tmp_path / "source").mkdir()
    (tmp_path / "source/photo.jpg").write_bytes(jpeg())
    source, tokens, decoded = (str(tmp_path / name) for name in ("source", "tokens", "decoded"))
    command = [sys.executable, "-m", "service.in_process"]
    assert_stays_here(tmp_path, *command, "tokenize", source, tokens, "-k", "8")
    assert_stays_here(tmp_path, *command, "detokenize", tokens, decoded)
    assert files(home) == []


def test_the_engine_of_a_generator(home: Path, tmp_path: Path) -> None:
    alone = "import runpy; runpy.run_path('export/triton/generator_backend.py'); import onnxruntime"
    assert_stays_here(tmp_path, sys.executable, "-c", alone)
    assert files(home) == []


def test_the_packages_of_export(home: Path, tmp_path: Path) -> None:
    assert_stays_here(tmp_path, sys.executable, "-c", "import export, nncf, onnxruntime, openvino")
    assert files(home) == []


def test_the_load_generator(home: Path, tmp_path: Path) -> None:
    load = ["--headless", "--users", "1", "--run-time", "2s", "--host", "http://127.0.0.1:9"]
    command = [sys.executable, "-m", "locust", "-f", "loadtest/load/locustfile.py", *load]
    assert_stays_here(tmp_path, *command, exit_code=1)  # nobody answers there
    assert files(home) == []
