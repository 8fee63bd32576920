"""The acceptance test without a GPU: against a real Triton that serves the graphs on the CPU."""

import asyncio
import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from export.acceptance import __main__, served
from export.graphs import graph
from export.triton import repository
from service.engine.embedded_triton import EmbeddedTriton
from service.settings import Settings
from service.triton.client import Triton
from tokenizer import checkpoint
from tokenizer.models.channeltok import ChannelTok


async def accept(command: list[str], served: Path) -> None:
    """Run the acceptance test against a Triton that serves a repository."""
    embedded = EmbeddedTriton(
        Settings(model_repository=served, engine="onnxruntime", decode_precision="f32")
    )
    client = Triton(embedded.url)
    try:
        await embedded.start(client)
        await asyncio.to_thread(__main__.main, [*command, "--triton", embedded.url])
    finally:
        await client.close()
        await embedded.stop()


@pytest.fixture
def command(
    tmp_path: Path,
    model: ChannelTok,
    photos: NDArray[np.uint8],
    encode: bytes,
    decodes: dict[int, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:
    """Arguments without Triton's address, for files in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(served, "REPEATS", 2)
    monkeypatch.setattr(served, "REQUESTS", 128)
    checkpoint.save(model, Path("demo.safetensors"))
    repository.write(Path("models"), "demo", [encode, *decodes.values()])
    Path("photos").mkdir()
    for number, photo in enumerate(photos):
        Image.fromarray(photo).save(f"photos/{number}.png")
    return [
        "demo.safetensors",
        "--data",
        "photos",
        "--repository",
        "models",
        "--output",
        "report",
        "--batches",
        "1",
        "4",
    ]


def test_report_has_figures_of_every_engine_or_lists_it_as_not_run(command: list[str]) -> None:
    asyncio.run(accept(command, Path("models")))
    report = Path("report/report.md").read_text()
    assert "| demo_encode | 0 of 32,768 bits flipped | the same |" in report
    assert "| demo_decode_k32 | largest pixel difference 0, mean 0.0000 | the same |" in report
    assert "All bounds hold." in report
    if not torch.cuda.is_available():
        assert report.count("Not run: ") == 3
    figures = json.loads(Path("report/report.json").read_text())
    assert figures["Triton_decode_batch_4_ms"] > 0
    assert figures["demo_decode_k256_mean_batch"] > 1


@pytest.mark.slow
def test_acceptance_fails_when_triton_serves_other_graphs(
    command: list[str], model: ChannelTok, encode: bytes, decodes: dict[int, bytes]
) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.decoder.parameters():
            parameter += 0.01
    changed = graph.decode_graph(other, "demo", 32).SerializeToString()
    repository.write(Path("served"), "demo", [encode, changed, decodes[256]])
    with pytest.raises(SystemExit, match="1"):
        asyncio.run(accept(command, Path("served")))
    verdict = Path("report/report.md").read_text().partition("## Verdict")[2]
    assert "Triton, demo_decode_k32: largest pixel difference" in verdict
    assert "k256" not in verdict


@pytest.mark.slow
def test_acceptance_refuses_graphs_of_another_checkpoint(command: list[str]) -> None:
    with pytest.raises(SystemExit, match="has no graph of this checkpoint"):
        __main__.main([*command[1:], "--random", "tiny", "--photos", "1"])
