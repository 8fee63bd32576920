"""FlexTok: the paper's sizes, absent registers, and the exactness of the flow."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.support.training import recipe_without_data
from tokenizer.models.channeltok import draw_budgets
from tokenizer.models.flextok import D12, FlexShape, FlexTok, euler_times
from tokenizer.training.losses import TrainingLosses

SHAPE = FlexShape(image_size=32, registers=8, width=64, encoder_depth=1, decoder_depth=2, steps=3)


@pytest.fixture
def model() -> FlexTok:
    """No weight is zero, where a mistake would not show."""
    torch.manual_seed(0)
    model = SHAPE.build()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model.eval()


def pixels() -> Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_flextok_d12_has_the_papers_parameters() -> None:
    with torch.device("meta"):
        model = D12.build()
    for layers, weights in ((model.encoder.layers, 12), (model.decoder.layers, 24)):
        assert len(layers) == 12
        assert {sum(weight.numel() for weight in layer.parameters()) for layer in layers} == {
            weights * 768**2
        }
    assert (12 * 12 * 768**2, 12 * 24 * 768**2) == (
        84_934_656,
        169_869_312,
    )  # 85 M and 170 M, 255 M in all


def test_flextok_prefix_decodes_like_mask_tokens(model: FlexTok) -> None:
    with torch.inference_mode():
        tokens = model.encode(pixels())
        assert (tokens.shape, tokens.dtype) == ((4, 8), torch.int32)
        assert 0 <= tokens.min() <= tokens.max() < 64_000
        for k in (1, 3, 7, 8):
            absent = tokens.clone()
            absent[:, k:] = -1
            assert torch.allclose(
                model.decode(absent), model.decode_prefix(tokens[:, :k]), atol=1e-4
            )
        assert not torch.allclose(
            model.decode(absent), model.decode_prefix(tokens[:, :3]), atol=1e-2
        )


def test_flextok_decodes_alike_alone_and_in_a_batch(model: FlexTok) -> None:
    with torch.inference_mode():
        tokens = model.encode(pixels())
        together, again = model.decode(tokens), model.decode(tokens)
        assert torch.equal(together, again)
        assert torch.allclose(together[:1], model.decode(tokens[:1]), atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_flextok_euler_is_exact_on_a_straight_path(
    model: FlexTok, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    target = pixels()[:1]
    monkeypatch.setattr(model, "shape", SHAPE.model_copy(update={"steps": steps}))
    seen: list[float] = []

    def expected(noisy: Tensor, times: Tensor, *_: Tensor) -> Tensor:
        assert torch.allclose(
            noisy, target + times * (model.noise - target), atol=1e-5
        )  # on the path at its time
        seen.append(times.item())
        return target

    monkeypatch.setattr(model, "expected", expected)
    assert torch.allclose(
        model.decode_prefix(torch.zeros(1, 8, dtype=torch.int32)), target, atol=1e-5
    )
    assert [*seen, 0] == pytest.approx(euler_times(steps))


def test_flextok_euler_times_fall_from_1_to_0_and_are_dense_near_1() -> None:
    times = euler_times(8)
    assert (times[0], times[-1], len(times)) == (1, 0, 9)
    steps = [before - after for before, after in pairwise(times)]
    assert all(0 < before < after for before, after in pairwise(steps))


def test_flextok_registers_start_at_patches() -> None:
    torch.manual_seed(0)
    model = FlexShape().build()
    places = (
        torch.nn.functional.normalize(model.decoder.position, dim=1)
        @ torch.nn.functional.normalize(model.encoder.patchify.position).T
    )
    assert torch.allclose(places.max(1).values, torch.ones(64), atol=1e-5)
    assert places.argmax(1).unique().numel() == 64
    assert places.median() < 0.1


def test_flextok_guidance_extrapolates_past_the_tokens(
    model: FlexTok, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy, time = model.noise, torch.ones(1)
    codes, present = torch.ones(1, 8, 6), torch.ones(1, 8, dtype=torch.bool)
    with torch.inference_mode():
        tokens_alone = model.expected(noisy, time, codes, present)
        blind = model.decoder(noisy, time, codes, ~present)
        monkeypatch.setattr(model, "shape", SHAPE.model_copy(update={"guidance": 3.0}))
        guided = model.expected(noisy, time, codes, present)
    assert torch.allclose(guided, blind + 3 * (tokens_alone - blind), atol=1e-4)


def test_flextok_gradient_reaches_every_weight(model: FlexTok) -> None:
    torch.manual_seed(0)
    model.train()
    passed = model(pixels(), draw_budgets(4, 8))
    model.loss(TrainingLosses(recipe_without_data()), pixels(), passed, 0).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in model.parameters())


def test_flextok_loss_is_of_the_velocity(model: FlexTok) -> None:
    photo, times = pixels(), torch.full((4, 1, 1, 1), 0.5)
    losses = TrainingLosses(recipe_without_data())
    assert model.loss(losses, photo, (photo, times), 0) == 0
    assert model.loss(losses, photo, (photo + 0.1, times), 0).item() == pytest.approx(
        0.04, rel=1e-4
    )


def test_flextok_usage_of_levels(model: FlexTok) -> None:
    assert model.usage(torch.arange(64_000, dtype=torch.int32).reshape(1000, 64)) == pytest.approx(
        1
    )
    assert model.usage(torch.zeros(10, 8, dtype=torch.int32)) == pytest.approx((3 / 8 + 3 / 5) / 6)
