"""Shares of the drawn requests, and which answers count as wrong."""

import io

import pytest
from channeltok import Tokens
from PIL import Image

from loadtest.load.workload import FULL, SHARE_OF_BUDGET, SHARE_OF_WIDTH, Failure, Workload
from tests.support.photographs import encoded

FINGERPRINT = "0123456789abcdef"
IMAGE = b"an image"
IDS = list(range(FULL))


@pytest.fixture(scope="module")
def drawing() -> Workload:
    return Workload()


@pytest.fixture
def workload(monkeypatch: pytest.MonkeyPatch, drawing: Workload) -> Workload:
    """Without earlier answers."""
    monkeypatch.setattr(drawing, "_tokens", {})
    monkeypatch.setattr(drawing, "image_size", 128)
    return drawing


def test_draws_follow_the_shares_of_widths_and_budgets(drawing: Workload) -> None:
    assert sum(SHARE_OF_WIDTH.values()) == pytest.approx(1)
    assert sum(SHARE_OF_BUDGET.values()) == pytest.approx(1)
    draws = 2000
    images = [Image.open(io.BytesIO(drawing.draw_image())) for _ in range(draws)]
    assert {image.format for image in images} == {"JPEG"}
    widths = [image.width for image in images]
    budgets = [drawing.draw_budget() for _ in range(draws)]
    for drawn, shares in (widths, SHARE_OF_WIDTH), (budgets, SHARE_OF_BUDGET):
        assert set(drawn) == set(shares)
        assert {value: drawn.count(value) / draws for value in shares} == pytest.approx(
            shares, abs=0.06
        )  # 5 sigma


def test_check_tokens_rejects_a_wrong_number(workload: Workload) -> None:
    workload.check_tokens(IMAGE, 64, Tokens(IDS[:64], FINGERPRINT))
    with pytest.raises(Failure, match=r"^wrong answer: 63 ids, not 64$"):
        workload.check_tokens(IMAGE, 64, Tokens(IDS[:63], FINGERPRINT))


def test_check_tokens_rejects_ids_that_differ_from_earlier_answers(workload: Workload) -> None:
    for k in (64, FULL, 32):
        workload.check_tokens(IMAGE, k, Tokens(IDS[:k], FINGERPRINT))
    for k in (32, FULL):
        with pytest.raises(Failure, match=r"^wrong answer: not the ids of an earlier answer$"):
            workload.check_tokens(IMAGE, k, Tokens([*IDS[: k - 1], 9999], FINGERPRINT))
    workload.check_tokens(b"another image", 2, Tokens([9999, 1], FINGERPRINT))


def test_check_tokens_accepts_other_ids_with_another_fingerprint(workload: Workload) -> None:
    workload.check_tokens(IMAGE, FULL, Tokens(IDS, FINGERPRINT))
    workload.check_tokens(IMAGE, 2, Tokens([9999, 1], "f" * 16))
    assert workload.known_tokens(IMAGE) is None


def test_known_tokens_are_only_full_ones(workload: Workload) -> None:
    workload.check_tokens(IMAGE, 64, Tokens(IDS[:64], FINGERPRINT))
    assert workload.known_tokens(IMAGE) is None
    workload.check_tokens(IMAGE, FULL, Tokens(IDS, FINGERPRINT))
    workload.check_tokens(IMAGE, 64, Tokens(IDS[:64], FINGERPRINT))
    assert workload.known_tokens(IMAGE) == Tokens(IDS, FINGERPRINT)


def test_check_image_rejects_all_but_complete_jpegs_of_the_right_size(workload: Workload) -> None:
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
