"""Headline figures: generation with and without a cache, guidance, and the best rate."""

import pytest
import torch

from export.acceptance.bare.headlines import with_cache, without_cache
from export.acceptance.bare.scale import REHEARSAL, Role
from export.acceptance.bare.speed import Speeds
from export.graphs.random_model import random_of
from generator.output_head import gumbel


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cache_changes_no_token_in_fp32_and_runs_in_bf16(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = REHEARSAL.gpt.build().eval().to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            if not weight.any():
                weight.normal_(std=0.05)
    prediction = model.prediction
    source = torch.Generator().manual_seed(0)
    noise = gumbel(source, 6, 1, prediction.draws, prediction.values)
    with torch.inference_mode():
        slow, fast = without_cache(model, 6, noise), with_cache(model, 6, noise)
    assert slow.shape == fast.shape == (1, 6)
    if dtype == torch.float32:
        assert torch.equal(slow, fast)


def test_speeds_best_is_the_highest_rate_of_a_model_and_role() -> None:
    role: Role = "encode"
    speeds = Speeds()
    assert speeds.best("demo", role) is None
    speeds.images_per_second = {
        ("demo", "encode", "slow", 1): 10.0,
        ("demo", "encode", "quick", 32): 90.0,
        ("demo", "decode", "quick", 32): 200.0,
        ("full", "encode", "quick", 32): 300.0,
    }
    assert speeds.best("demo", role) == (90.0, "quick", 32)


def test_guidance_runs_flextoks_network_twice() -> None:
    calls = {}
    for guidance in (1.0, 2.0):
        shape = REHEARSAL.flextok.model_copy(update={"guidance": guidance})
        model = random_of(shape)
        count: list[int] = []
        model.decoder.register_forward_hook(lambda *_, count=count: count.append(1))
        with torch.inference_mode():
            model.decode(torch.zeros(1, shape.channels, dtype=torch.int32))
        calls[guidance] = len(count)
    assert calls == {1.0: REHEARSAL.flextok.steps, 2.0: 2 * REHEARSAL.flextok.steps}
