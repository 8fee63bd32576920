"""Checkpoints round-trip; fingerprints depend on shape and weights only."""

from pathlib import Path

import pytest
import torch

from generator import checkpoint as generator_checkpoint
from tests.support import shipped
from tokenizer import checkpoint
from tokenizer.models.channeltok import ChannelTok, ShuffleShape

SHAPE = ShuffleShape(channels=32, widths=(32, 32, 32, 32))


def random_model(seed: int = 0) -> ChannelTok:
    torch.manual_seed(seed)
    return ChannelTok(SHAPE)


def test_checkpoint_round_trips(tmp_path: Path) -> None:
    model = random_model()
    checkpoint.save(model, tmp_path / "folder/weights.safetensors", {"views": "12"})
    loaded = checkpoint.load(tmp_path / "folder/weights.safetensors")
    assert loaded.shape == SHAPE
    assert not loaded.training
    assert checkpoint.facts(tmp_path / "folder/weights.safetensors")["views"] == "12"
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.half().float()), name


def test_fingerprint_survives_saving_and_ignores_the_file(tmp_path: Path) -> None:
    model = random_model()
    fingerprint = checkpoint.fingerprint(model)
    assert len(fingerprint) == 16
    assert int(fingerprint, 16) >= 0
    for name, facts in (("one", {"views": "1"}), ("two", {"views": "2", "note": "x"})):
        checkpoint.save(model, tmp_path / name, facts)
        assert checkpoint.fingerprint(checkpoint.load(tmp_path / name)) == fingerprint
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert checkpoint.fingerprint(model) == fingerprint


def test_fingerprint_changes_with_a_weight() -> None:
    model = random_model()
    before = checkpoint.fingerprint(model)
    with torch.no_grad():
        next(model.decoder.parameters()).view(-1)[-1] += 0.01
    assert checkpoint.fingerprint(model) != before
    assert checkpoint.fingerprint(random_model(1)) != before


def test_fingerprint_changes_with_the_shape() -> None:
    model = random_model()
    before = checkpoint.fingerprint(model)
    model.shape = SHAPE.model_copy(update={"image_size": 256})  # the same weights, other images
    assert checkpoint.fingerprint(model) != before


@pytest.mark.parametrize(
    ("name", "fingerprint"),
    [
        ("demo", shipped.DEMO),
        ("cvq", shipped.CVQ),
        ("flextok", shipped.FLEXTOK),
    ],
)
def test_fingerprint_of_shipped_weights_stands(name: str, fingerprint: str) -> None:
    """Tokens on users' disks carry it: a renamed shape field or weight would orphan them all."""
    path = Path("tokenizer/weights") / f"{name}.safetensors"
    assert checkpoint.fingerprint(checkpoint.load(path)) == fingerprint


def test_fingerprint_of_the_shipped_generator_stands() -> None:
    generator = generator_checkpoint.load(Path("generator/weights/demo.safetensors"))
    assert checkpoint.fingerprint(generator.model) == shipped.GENERATOR
