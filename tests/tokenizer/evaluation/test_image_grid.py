"""Figures of decoded images."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.support.photographs import crops
from tokenizer import checkpoint
from tokenizer.evaluation import beside_codecs, channel_swap, coarse_to_fine
from tokenizer.models.channeltok import ChannelTok, ShuffleShape


@pytest.mark.parametrize(
    ("command", "columns", "rows"),
    [(coarse_to_fine.main, 4, 2), (channel_swap.main, 6, 2), (beside_codecs.main, 2, 6)],
)
def test_image_grid_has_a_row_per_photo_and_method(
    command: Callable[[], None],
    columns: int,
    rows: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    checkpoint.save(
        ChannelTok(ShuffleShape(channels=32, widths=(32, 32, 32, 32))),
        tmp_path / "model.safetensors",
    )
    paths = [tmp_path / f"{i}.jpg" for i in range(2)]
    for path, data in zip(paths, crops(2), strict=True):
        path.write_bytes(data)
    arguments = [tmp_path / "model.safetensors", *paths, "-o", tmp_path / "sheet.png"]
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    command()
    with Image.open(tmp_path / "sheet.png") as sheet:
        width, height = sheet.size
    assert width / columns == pytest.approx(
        height / rows, rel=0.15
    )  # nearly square cells, with room for titles
