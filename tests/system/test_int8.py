"""Decode in int8: exported, served, named in the reply, and close to fp32."""

import io
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from export.__main__ import main as export
from export.commands.tokenizer import DEMO
from tests.support.photographs import crops, jpeg
from tests.support.running import ROOT, running
from tokenizer import checkpoint, inference
from tokenizer.evaluation import fidelity


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for number, data in enumerate(crops(10)):
        Path(f"photos/{number}.jpg").write_bytes(data)
    return "photos"


def export_int8(photos: str, count: int) -> None:
    options = ["--int8", "--data", photos, "--photos", str(count), "--repository", "models"]
    export(["tokenizer", str(DEMO), *options])


@pytest.mark.slow  # exports and calibrates; tests/export/graphs/test_int8.py tests the graph
def test_int8_is_served_where_it_was_exported(photos: str) -> None:
    export_int8(photos, 2)
    with (
        running(model_repository=str(Path("models").resolve()), decode_precision="int8") as service,
        httpx.Client() as rest,
    ):
        encoded = rest.post(
            f"{service.rest}/v1/encode",
            content=jpeg("chelsea"),
            headers={"Content-Type": "image/jpeg"},
        )
        headers = {"Content-Type": "application/json", "Accept": "image/png"}
        decoded = rest.post(
            f"{service.rest}/v1/decode", content=encoded.raise_for_status().content, headers=headers
        ).raise_for_status()
    assert decoded.headers["ChannelTok-Engine"] == "openvino int8"
    tokens = torch.tensor([encoded.json()["tokens"]], dtype=torch.int32)
    due = inference.decode(checkpoint.load(DEMO), tokens, 256)
    assert (
        38 <= fidelity.psnr(due, np.asarray(Image.open(io.BytesIO(decoded.content)))[None])[0] < 60
    )


def test_without_its_graph_the_service_says_how_to_get_one() -> None:
    said = r"demo_decode_k256 has no int8 graph .*python -m export tokenizer CHECKPOINT --int8"
    settings = {"model_repository": str(ROOT / "model_repository"), "decode_precision": "int8"}
    with pytest.raises(AssertionError, match=said), running(**settings):
        pass


def test_export_refuses_too_few_images(photos: str) -> None:
    with pytest.raises(SystemExit, match="--int8 calibrates on photos beyond the 10 to compare"):
        export_int8(photos, 10)
    assert not Path("models").exists()
