"""The paper's 159 M model: parity of its graphs, and their compilation for a GPU."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from export.__main__ import main as export
from export.acceptance import engines_check
from export.graphs import graph, parity
from export.graphs.random_model import random_model
from tests.export.conftest import photos_of_side
from tests.support.running import ROOT
from tokenizer import inference
from tokenizer.inference import to_unit
from tokenizer.models.blocks import parameter_count
from tokenizer.models.bsq import tokens_from_latents


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_full_size_graphs_agree_with_pytorch() -> None:
    model, photos = random_model("full"), photos_of_side(256)[:2]
    assert parameter_count(model) == 159_305_603
    with torch.inference_mode():
        latents = model.encoder(to_unit(torch.from_numpy(photos)))
    tokens = tokens_from_latents(latents)

    served = parity.run(graph.encode_graph(model, "full").SerializeToString(), photos)
    # Random weights make latents of 0.01, so a bit may differ, but only where the latent is near 0.
    flipped = (tokens.numpy() ^ served)[..., None] >> np.arange(15, -1, -1) & 1
    assert flipped.sum() <= 4
    assert (latents.flatten(2).abs().numpy()[flipped == 1] < 1e-5).all()

    pixels = parity.run(graph.decode_graph(model, "full", 512).SerializeToString(), tokens.numpy())
    assert (
        np.abs(pixels.astype(int) - inference.decode(model, tokens, 512)).max()
        <= parity.MAX_PIXEL_DIFFERENCE
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_full_size_graphs_compile_for_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    export(["gpu", "--random", "full", "--data", f"{ROOT}/docs/images/*.jpg", "--photos", "1"])
    engines_check.main(["build/gpu_repository"])
    report = json.loads(Path("build/engines-check.json").read_text())
    assert report["models"] == 6
    assert report["failed"] == 0
