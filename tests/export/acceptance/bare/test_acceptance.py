"""The bare acceptance test, rehearsed on the CPU: all sections, and imports that the host has."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from export.acceptance import __main__
from export.acceptance.bare import acceptance, speed

ROOT = Path(__file__).parents[4]
SECTIONS = [
    "Peak rates of the device",
    "Numerics",
    "Speed",
    "ChannelTok beside FlexTok",
    "Generation",
    "Speed, other precisions and layouts",
    "The exported graphs",
    "Speed, compiled",
    "Gateway cores per device",
    "Failed and skipped parts",
]


@pytest.mark.slow
def test_rehearsal_fills_every_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "COMPILED", ())  # a minute; `make gpu-rehearsal` compiles
    __main__.main(["--bare", "--rehearse", "--output", str(tmp_path), "--minutes", "20"])
    report = (tmp_path / "report.md").read_text()
    headings = [line[3:] for line in report.splitlines() if line.startswith("## ")]
    assert headings == SECTIONS
    assert "A REHEARSAL" in report
    assert "no figure below means anything" in report
    assert report.endswith("None: every part completed.\n")
    assert "| demo_encode | 0 of " in report
    figures = json.loads((tmp_path / "report.json").read_text())
    for name in (
        "matrix_bf16_tflops",
        "demo_fp32_flipped_share",
        "full_fp16_throughout_pixel_difference_max",
        "full_decode_bf16_throughout_channels_last_eager_batch_2_ms",
        "channeltok_over_FlexTok",
        "channeltok_over_FlexTok_with_guidance",
        "gpt_bf16_without_a_cache_8_seconds",
        "gpt_bf16_with_a_cache_8_seconds",
        "full_decode_gateway_cores",
    ):
        assert name in figures


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_acceptance_without_a_gpu_suggests_the_rehearsal(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="there is no GPU: --rehearse"):
        acceptance.main(["--output", str(tmp_path)])


def test_bare_acceptance_imports_nothing_that_a_bare_host_lacks() -> None:
    lacking = ["tritonclient", "structlog", "fastapi", "openvino", "grpc", "nncf"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({lacking!r}))\n"
        "from export.acceptance import __main__; __main__.main(['--bare', '--help'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--rehearse" in done.stdout
