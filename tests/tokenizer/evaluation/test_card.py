"""Model cards: generated ones, and those in the repository."""

import json
from pathlib import Path

import pytest
import torch

from tokenizer import checkpoint
from tokenizer.evaluation.card import card
from tokenizer.models.channeltok import ChannelTok, ShuffleShape

WEIGHTS = Path(__file__).parents[3] / "tokenizer/weights"


def report(folder: Path, fingerprint: str) -> Path:
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps({"fingerprint": fingerprint}))
    (folder / "report.md").write_text("| the | table |\n")
    return folder


def test_card_contains_metadata_and_reports(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ChannelTok(ShuffleShape(channels=32, widths=(32, 32, 32, 32))).half().float()
    weights = tmp_path / "mine.safetensors"
    checkpoint.save(
        model, weights, {"views": "12345", "seconds": "5400", "recipe": '{"crop_area": 0.5}'}
    )
    text = card(weights, [report(tmp_path / "a", checkpoint.fingerprint(model))])
    for expected in (
        "# Model card: mine",
        checkpoint.fingerprint(model),
        "12,345",
        "1.5 h",
        "crop area 0.5",
        "| the | table |",
    ):
        assert expected in text
    with pytest.raises(ValueError, match="evaluates 0123456789abcdef, but"):
        card(weights, [report(tmp_path / "b", "0123456789abcdef")])


@pytest.mark.parametrize(
    "weights", sorted(WEIGHTS.glob("*.safetensors")), ids=lambda path: path.stem
)
def test_card_in_the_repository_matches_its_weights(weights: Path) -> None:
    model = checkpoint.load(weights)
    text = weights.with_suffix(".md").read_text()
    assert checkpoint.fingerprint(model) in text
    assert f"A {model.title} tokenizer for" in text
