"""Crop against pad, and the colours of padding: the parts by hand, the command on real photos."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import imaging
from tests.support.photographs import encoded, photograph
from tokenizer.evaluation import non_square

PHOTO = Image.fromarray(photograph("chelsea"))  # 451 x 300


@pytest.mark.parametrize("aspect", non_square.ASPECTS)
def test_strips_have_the_aspect_and_share_the_centre(aspect: tuple[int, int]) -> None:
    lying, standing = non_square.strips(PHOTO, aspect)
    for strip, (width, height) in ((lying, aspect), (standing, aspect[::-1])):
        assert abs(strip.width - strip.height * width / height) <= max(width, height) / min(
            width, height
        )
        assert strip.width >= 450 or strip.height == 300
        assert np.array_equal(
            np.asarray(strip)[strip.height // 2, strip.width // 2], np.asarray(PHOTO)[150, 225]
        )


@pytest.mark.parametrize("fill", non_square.FILLS)
def test_padded_keeps_the_content_between_its_bands(fill: str) -> None:
    content = non_square.seen_by_pad(PHOTO.crop((0, 0, 300, 100)), 96)
    assert content.shape == (32, 96, 3)
    square = non_square.padded(content, 96, fill)
    assert square.shape == (96, 96, 3)
    assert np.array_equal(imaging.crop_to_aspect(square, 3, 1), content)
    bands = {
        "white": (255, 255),
        "black": (0, 0),
        "mid-grey": (128, 128),
        "mean colour": 2 * (content.mean(axis=(0, 1)).round(),),
        "mirror": (content[::-1], content[::-1]),
        "edge": (content[0], content[-1]),
    }[fill]
    assert (square[:32] == bands[0]).all()
    assert (square[64:] == bands[1]).all()


def test_fill_is_that_of_imaging() -> None:
    strip = PHOTO.crop((0, 0, 451, 120))
    content = non_square.seen_by_pad(strip, 128)
    prepared = imaging.prepare(encoded(strip, "PNG"), 128, fit="pad")
    assert np.array_equal(non_square.padded(content, 128, non_square.FILL), prepared)


def test_command_prints_both_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy("docs/images/cat.jpg", tmp_path)
    monkeypatch.setattr(non_square, "ASPECTS", ((3, 1),))
    monkeypatch.setattr(non_square, "BUDGETS", (32, 256))
    weights = "tokenizer/weights/demo.safetensors"
    monkeypatch.setattr(sys, "argv", ["non_square", weights, "--data", str(tmp_path)])
    non_square.main()
    fills, fits = capsys.readouterr().out.strip().split("\n\n")
    for table, columns in ((fills, 3 + len(non_square.FILLS)), (fits, 6)):
        rows = [row.strip("| ").split(" | ") for row in table.splitlines()[2:]]
        assert [row[:2] for row in rows] == [["3:1", "32"], ["3:1", "256"]]
        assert {len(row) for row in rows} == {columns}
        few, many = (float(row[-1].split(" dB")[0]) for row in rows)
        assert many > few > 10
