"""Quality: parsing, the values of k it tries, and the one it chooses."""

import pytest
from channeltok import Quality, QualityPoint
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    "text",
    [
        "ssim=0.6",
        "psnr=24",
        "max_bytes=128",
        "ssim=0.6,max_bytes=128",
        "psnr=24.5,max_bytes=64",
        "ssim_per_token=0.001",
        "ssim_per_token=1e-05",
    ],
)
def test_quality_text_round_trips(text: str) -> None:
    assert str(Quality.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a quality is written"),
        ("0.6", "a quality is written"),
        ("ssim", "ssim is a number"),
        ("ssim=high", "ssim is a number, not 'high'"),
        ("max_bytes=1.5", "max_bytes is a whole number"),
        ("ssim=0.6,ssim=0.7", "a quality is written"),
        ("ssim=0.6,psnr=24", "not both"),
        ("ssim=0.6,ssim_per_token=0.01", "not both"),
        ("ssim_per_token=0", "above 0"),
        ("ssim=0", "above 0 and at most 1"),
        ("ssim=1.01", "above 0 and at most 1"),
        ("ssim=nan", "ssim is a number"),
        ("psnr=inf", "psnr is a number"),
        # What float() and int() would take.
        ("psnr=2_4", "psnr is a number"),
        ("psnr= 24", "psnr is a number"),
        ("psnr=+24", "psnr is a number"),
        ("psnr=\uff12\uff14", "psnr is a number"),
        ("max_bytes=1_28", "max_bytes is a whole number"),
        ("max_bytes=+128", "max_bytes is a whole number"),
        ("max_bytes=\u0661\u0662", "max_bytes is a whole number"),
        ("psnr=-3", "psnr is above 0"),
        ("max_bytes=1", "at least 2"),
        ("lpips=0.1", "a quality is written"),
    ],
)
def test_parse_refuses_other_text(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Quality.parse(text)


@given(max_tokens=st.integers(1, 65_535), max_bytes=st.none() | st.integers(2, 200_000))
def test_budgets_ascend_to_the_limit(max_tokens: int, max_bytes: int | None) -> None:
    budgets = Quality(ssim=0.5, max_bytes=max_bytes).budgets(max_tokens)
    most = max_tokens if max_bytes is None else min(max_tokens, max_bytes // 2)
    assert budgets == sorted(set(budgets))
    assert (budgets[0] >= 1, budgets[-1]) == (True, most)
    assert len(budgets) <= 10


def test_budgets_of_the_demo_tokenizer() -> None:
    assert Quality(ssim=0.5).budgets(256) == [8, 16, 24, 32, 48, 64, 96, 128, 192, 256]
    assert Quality(max_bytes=100).budgets(256) == [8, 16, 24, 32, 48, 50]


CURVE = [
    QualityPoint(8, 0.4, 18.0),
    QualityPoint(16, 0.55, 20.0),
    QualityPoint(32, 0.54, 21.0),
    QualityPoint(64, 0.55, 20.5),
]


@pytest.mark.parametrize(
    ("quality", "k"),
    [
        (Quality(ssim=0.3), 8),
        (Quality(ssim=0.55), 16),
        (Quality(psnr=20.1), 32),
        (Quality(ssim=0.9), 16),  # none reaches it: the best, of equals the shortest
        (Quality(psnr=40), 32),
        (Quality(max_bytes=128), 16),
        (Quality(ssim_per_token=0.01), 16),
        (Quality(ssim_per_token=0.02), 8),
        (Quality(ssim_per_token=0.0001, max_bytes=128), 16),
    ],
)
def test_choose_takes_the_fewest_that_reach_the_target_or_the_best(
    quality: Quality, k: int
) -> None:
    assert quality.choose(CURVE).k == k
