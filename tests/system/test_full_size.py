"""The paper's 159 M model served end to end (`make serve MODEL=full`) decodes as PyTorch does."""

import io
from pathlib import Path

import numpy as np
import pytest
from channeltok import Client, Tokens
from PIL import Image

import imaging
from export.__main__ import main as export
from export.graphs.random_model import random_model
from tests.support.photographs import jpeg
from tests.support.running import ROOT, running
from tokenizer import inference
from tokenizer.evaluation import fidelity


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        export(
            [
                "tokenizer",
                "--random",
                "full",
                "--repository",
                "models",
                "--data",
                f"{ROOT}/docs/images/*.jpg",
                "--photos",
                "1",
            ]
        )
    return folder / "models"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("precision", ["f32", "auto"])
def test_full_size_decode_equals_pytorch(repository: Path, precision: str) -> None:
    model, photo = random_model("full"), jpeg("chelsea")
    tokens = inference.encode(model, imaging.prepare(photo, 256)[None].copy())
    with (
        running(model_repository=str(repository), decode_precision=precision) as service,
        Client(service.grpc, timeout=300) as client,
    ):
        served = client.encode(photo, k=512)
        flipped = np.unpackbits(
            (tokens.numpy().astype(np.uint16) ^ served.ids).view(np.uint8)
        ).sum()
        assert flipped <= 4  # of 8,192: random weights leave some latents next to 0
        ours = Tokens(tokens[0].numpy(), served.fingerprint)
        for k in (32, 64, 128, 256, 512):
            image = np.asarray(Image.open(io.BytesIO(client.decode(ours.prefix(k), "png"))))
            due = inference.decode(model, tokens, k)
            if precision == "f32":
                assert np.abs(image.astype(int) - due[0]).max() <= 1
            else:  # bf16, where the processor has it, moves single pixels further
                assert fidelity.psnr(due, image[None])[0] >= 40
