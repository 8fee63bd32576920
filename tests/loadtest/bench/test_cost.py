"""The cost model, the histogram's buckets, and a short run of the benchmark."""

import json
import sys
from pathlib import Path

import pytest

from loadtest.bench import capacity_report, cost
from loadtest.bench.cost import Model, _buckets
from loadtest.harness.bare_graph import CORES

EXPOSITION = """\
# TYPE channeltok_batch_size histogram
channeltok_batch_size_bucket{le="1.0",model="demo_encode"} 3.0
channeltok_batch_size_bucket{le="2.0",model="demo_encode"} 5.0
channeltok_batch_size_bucket{le="4.0",model="demo_encode"} 9.0
channeltok_batch_size_bucket{le="+Inf",model="demo_encode"} 9.0
channeltok_batch_size_count{model="demo_encode"} 9.0
channeltok_batch_size_sum{model="demo_encode"} 23.0
channeltok_batch_size_bucket{le="1.0",model="demo_decode_k256"} 7.0
"""


def test_model_limits_few_clients_by_latency_and_many_by_cores() -> None:
    model = Model(latency=0.010, cost=8.0, slope=4.0)
    assert model.throughput(1) == pytest.approx(100)
    assert model.throughput(1000) == pytest.approx(CORES / 0.008)
    # A further megapixel costs 4 ms of both.
    megapixels = 1 + 256**2 / 1e6
    assert model.throughput(1, megapixels) == pytest.approx(1 / 0.014)
    assert model.throughput(1000, megapixels) == pytest.approx(CORES / 0.012)


def test_buckets_are_not_cumulative() -> None:
    assert dict(_buckets(EXPOSITION, "encode")) == {"1": 3, "2": 2, "4": 4, "+Inf": 0}
    assert dict(_buckets(EXPOSITION, "decode")) == {"1": 7}


@pytest.mark.bench
def test_cost_writes_a_report_that_capacity_report_draws(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cost, "REPORT", tmp_path / "cost.json")
    monkeypatch.setattr(cost, "CLIENTS", (1, 16))
    monkeypatch.setattr(cost, "BUDGETS", (32, 256))
    monkeypatch.setattr(cost, "SIDES", (256, 1024))
    monkeypatch.setattr(cost, "STREAMED", (4,))
    monkeypatch.setattr(cost, "BATCHES", (1, 4))
    monkeypatch.setattr(sys, "argv", ["cost", "--seconds", "0.3"])
    cost.main()
    figures = json.loads(cost.REPORT.read_text())
    for role, axes in {
        "encode": {"clients", "k", "side", "streamed", "bare"},
        "decode": {"clients", "k", "streamed", "bare"},
    }.items():
        assert set(figures["cells"][role]) == axes
        assert all(
            cell["throughput"] > 0 and cell["predicted"] > 0
            for row in figures["cells"][role].values()
            for cell in row
        )
        batches = figures["batches"][role]["1"]
        assert sum(batches.values()) == batches["1"] > 0  # images of a single client
        small, large = figures["cells"][role]["k"]
        size = "bytes_out" if role == "encode" else "bytes_in"
        assert small[size] < large[size]
    assert capsys.readouterr().out.count("all else") == 2
    drawn = capacity_report.draw(tmp_path, tmp_path)
    assert [path.name for path in drawn] == ["capacity-batches.png", "capacity-cpu.png"]
    assert all(path.stat().st_size > 5000 for path in drawn)
