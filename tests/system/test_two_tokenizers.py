"""A checkpoint trained elsewhere is exported and served beside the demo tokenizer."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from channeltok import Client, FingerprintMismatch, UnknownTokenizer

import imaging
from export.__main__ import main as export
from tests.support.photographs import crops, jpeg
from tests.support.running import ROOT, running
from tokenizer import checkpoint, inference
from tokenizer.models.channeltok import SIZES, ChannelTok
from tokenizer.paper_checkpoint import their_names


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .ckpt of the paper's `tiny` as its training code names things; the weights are random."""
    torch.manual_seed(0)
    model = ChannelTok(SIZES["tiny"])
    names = their_names(model)
    path = tmp_path_factory.mktemp("elsewhere") / "Theirs.ckpt"
    torch.save(
        {
            "model_state_dict": {
                f"module.{names[ours]}": value for ours, value in model.state_dict().items()
            },
            "epoch": 3,
        },
        path,
    )
    return path


@pytest.fixture(scope="module")
def both(theirs: Path) -> Iterator[Client]:
    """A service with the committed repository and theirs."""
    photos = theirs.parent / "photos"
    photos.mkdir()
    for i, data in enumerate(crops(2)):
        (photos / f"{i}.jpg").write_bytes(data)
    repository = theirs.parent / "model_repository"
    shutil.copytree(
        ROOT / "model_repository", repository, ignore=shutil.ignore_patterns("__pycache__")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(theirs.parent)
        export(["tokenizer", str(theirs), "--repository", str(repository), "--data", str(photos)])
    with (
        running(model_repository=str(repository), default_tokenizer="demo") as service,
        Client(service.grpc, timeout=60) as client,
    ):
        yield client


def test_service_serves_two_tokenizers_with_their_own_fingerprints(
    both: Client, theirs: Path
) -> None:
    served = {tokenizer.name: tokenizer for tokenizer in both.tokenizers()}
    assert set(served) == {"demo", "theirs"}
    assert served["theirs"].fingerprint == checkpoint.fingerprint(checkpoint.load(theirs))
    assert served["demo"].fingerprint != served["theirs"].fingerprint
    assert (served["theirs"].image_size, served["theirs"].max_tokens) == (256, 256)


def test_decode_finds_the_tokenizer_by_fingerprint(both: Client, theirs: Path) -> None:
    photo = jpeg("astronaut")
    default, other = both.encode(photo, k=64), both.encode(photo, k=64, tokenizer="theirs")
    model = checkpoint.load(theirs)
    expected = inference.encode(model, imaging.prepare(photo, 256)[None].copy())[0, :64].numpy()
    assert np.count_nonzero(other.ids != expected) <= 1  # random weights: a latent may be next to 0
    assert imaging.open_image(both.decode(other, "png")).width == 256
    assert imaging.open_image(both.decode(default, "png")).width == 128


def test_decode_refuses_tokens_of_another_tokenizer(both: Client) -> None:
    tokens = both.encode(jpeg("astronaut"), k=8)
    with pytest.raises(FingerprintMismatch):
        both.decode(tokens, "png", tokenizer="theirs")
    with pytest.raises(UnknownTokenizer):
        both.encode(jpeg("astronaut"), k=8, tokenizer="nobodys")
