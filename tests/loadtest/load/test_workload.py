"""What is drawn, and which answers count as wrong."""

import io

import pytest
from channeltok import Tokens
from PIL import Image

from loadtest.load.workload import FULL, SHARE_OF_BUDGET, SHARE_OF_WIDTH, Failure, Workload
from tests.support.photographs import encoded

MADE_BY = "0123456789abcdef"
PHOTO = b"a photo"
IDS = list(range(FULL))


@pytest.fixture(scope="module")
def drawing() -> Workload:
    return Workload()


@pytest.fixture
def workload(monkeypatch: pytest.MonkeyPatch, drawing: Workload) -> Workload:
    """With nothing answered so far."""
    monkeypatch.setattr(drawing, "_tokens", {})
    monkeypatch.setattr(drawing, "image_size", 128)
    return drawing


def test_photos_and_budgets_are_drawn_by_their_shares(drawing: Workload) -> None:
    assert sum(SHARE_OF_WIDTH.values()) == pytest.approx(1)
    assert sum(SHARE_OF_BUDGET.values()) == pytest.approx(1)
    draws = 2000
    photos = [Image.open(io.BytesIO(drawing.draw_photo())) for _ in range(draws)]
    assert {photo.format for photo in photos} == {"JPEG"}
    widths, budgets = (
        [photo.width for photo in photos],
        [drawing.draw_budget() for _ in range(draws)],
    )
    for drawn, shares in (widths, SHARE_OF_WIDTH), (budgets, SHARE_OF_BUDGET):
        assert set(drawn) == set(shares)
        assert {value: drawn.count(value) / draws for value in shares} == pytest.approx(
            shares, abs=0.06
        )  # 5 sigma


def test_tokens_are_checked_for_their_number(workload: Workload) -> None:
    workload.check_tokens(PHOTO, 64, Tokens(IDS[:64], MADE_BY))
    with pytest.raises(Failure, match=r"^wrong answer: 63 ids, not 64$"):
        workload.check_tokens(PHOTO, 64, Tokens(IDS[:63], MADE_BY))


def test_tokens_of_one_photo_agree_at_every_budget(workload: Workload) -> None:
    for k in (64, FULL, 32):
        workload.check_tokens(PHOTO, k, Tokens(IDS[:k], MADE_BY))
    for k in (32, FULL):
        with pytest.raises(Failure, match=r"^wrong answer: not the ids of an earlier answer$"):
            workload.check_tokens(PHOTO, k, Tokens([*IDS[: k - 1], 9999], MADE_BY))
    workload.check_tokens(b"another photo", 2, Tokens([9999, 1], MADE_BY))


def test_another_training_may_make_other_tokens(workload: Workload) -> None:
    workload.check_tokens(PHOTO, FULL, Tokens(IDS, MADE_BY))
    workload.check_tokens(PHOTO, 2, Tokens([9999, 1], "f" * 16))
    assert workload.known_tokens(PHOTO) is None


def test_only_full_tokens_are_known(workload: Workload) -> None:
    workload.check_tokens(PHOTO, 64, Tokens(IDS[:64], MADE_BY))
    assert workload.known_tokens(PHOTO) is None
    workload.check_tokens(PHOTO, FULL, Tokens(IDS, MADE_BY))
    workload.check_tokens(PHOTO, 64, Tokens(IDS[:64], MADE_BY))
    assert workload.known_tokens(PHOTO) == Tokens(IDS, MADE_BY)


def test_an_image_is_a_whole_jpeg_of_the_right_size(workload: Workload) -> None:
    right = encoded(Image.effect_noise((128, 128), 80), "JPEG")
    workload.check_image(right)
    for wrong in (
        b"",
        b"not an image",
        right[: len(right) // 2],
        encoded(Image.new("RGB", (128, 128)), "PNG"),
    ):
        with pytest.raises(Failure, match=r"^wrong answer: not a JPEG$"):
            workload.check_image(wrong)
    with pytest.raises(Failure, match=r"^wrong answer: 128 x 64 pixels, not 128 square$"):
        workload.check_image(encoded(Image.new("RGB", (128, 64)), "JPEG"))
