"""ChannelTok: the paper's parameter counts, prefixes, tail-drop and losses."""

from itertools import accumulate

import pytest
import torch
from torch import nn

from tests.support.training import recipe_without_data
from tokenizer.models.blocks import Res, parameter_count
from tokenizer.models.bsq import factorised_entropy
from tokenizer.models.channeltok import (
    SIZES,
    ChannelTok,
    NarrowDecoder,
    ShuffleShape,
    draw_budgets,
)
from tokenizer.training.losses import TrainingLosses

TINY = ShuffleShape(channels=32, widths=(32, 32, 32, 32))


def on_meta(size: str) -> ChannelTok:
    with torch.device("meta"):
        return ChannelTok(SIZES[size])


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("full", 159_305_603),
        ("tiny", 6_297_219),
        ("small", 18_159_619),
        ("medium", 31_726_467),
        ("large", 72_389_507),
    ],
)
def test_channeltok_sizes_have_the_papers_parameters(size: str, parameters: int) -> None:
    assert parameter_count(on_meta(size)) == parameters


def test_channeltok_full_size_sums_up_as_published() -> None:
    model = on_meta("full")
    assert (parameter_count(model.encoder), parameter_count(model.decoder)) == (
        64_620_800,
        94_684_803,
    )

    def sums(module: nn.Module) -> set[int]:
        return set(accumulate(parameter_count(layer) for layer in module.children()))

    assert {5_376, 2_859_648, 9_156_224, 20_566_400, 38_194_944, 57_541_376} <= sums(model.encoder)
    assert {26_719_360, 57_463_040, 78_061_056, 87_997_696, 92_525_056, 94_679_232} <= sums(
        model.decoder
    )


@pytest.mark.parametrize("size", SIZES)
def test_channeltok_sizes_map_images_to_4x4_channels_and_back(size: str) -> None:
    model, shape = on_meta(size), SIZES[size]
    pixels = torch.empty(2, 3, shape.image_size, shape.image_size, device="meta")
    latents = model.encoder(pixels)
    assert latents.shape == (2, shape.channels, 4, 4)
    assert model.decoder(latents).shape == pixels.shape


def test_channeltok_encodes_and_decodes() -> None:
    torch.manual_seed(0)
    model = ChannelTok(TINY).eval()
    with torch.inference_mode():
        tokens = model.encode(torch.rand(3, 3, 128, 128) * 2 - 1)
        pixels = model.decode(tokens)
    assert (tokens.shape, tokens.dtype) == ((3, 32), torch.int32)
    assert tokens.min() >= 0
    assert tokens.max() < 2**16
    assert (pixels.shape, pixels.dtype) == ((3, 3, 128, 128), torch.float32)


def test_channeltok_paper_latents_end_in_a_silu() -> None:
    torch.manual_seed(0)
    model = ChannelTok(SIZES["tiny"]).eval()
    with torch.inference_mode():
        latents = model.encoder(torch.rand(1, 3, 256, 256) * 2 - 1)
    assert latents.min() >= -0.2785


@pytest.fixture
def quantiser_alone() -> ChannelTok:
    """Identity encoder and decoder: forward() takes latents and returns the decoder's input."""
    model = ChannelTok(TINY)
    model.encoder, model.decoder = nn.Identity(), nn.Identity()
    return model


def test_channeltok_decoder_gets_zeros_past_the_budget(quantiser_alone: ChannelTok) -> None:
    codes, unit, active = quantiser_alone(torch.randn(3, 32, 4, 4), torch.tensor([1, 7, 32]))
    assert active.sum(1).tolist() == [1, 7, 32]
    assert not codes[~active].any()
    assert torch.allclose(codes[active].abs(), torch.tensor(0.25))
    assert torch.allclose(unit.flatten(2).norm(dim=2), torch.ones(3, 32))


def test_channeltok_latents_past_the_budget_get_no_gradient(quantiser_alone: ChannelTok) -> None:
    latents = torch.randn(3, 32, 4, 4, requires_grad=True)
    codes, unit, active = quantiser_alone(latents, torch.tensor([1, 7, 32]))
    ((codes * torch.randn_like(codes)).sum() + unit.square().sin().sum()).backward()
    assert latents.grad is not None
    assert not latents.grad[~active].any()
    assert latents.grad[active].flatten(1).any(dim=1).all()


def test_channeltok_training_and_serving_decode_alike() -> None:
    torch.manual_seed(0)
    model = ChannelTok(TINY).eval()
    pixels = torch.rand(2, 3, 128, 128) * 2 - 1
    with torch.inference_mode():
        trained, _, _ = model(pixels, torch.tensor([5, 32]))
        tokens = model.encode(pixels)
        tokens[0, 5:] = -1
        assert torch.allclose(model.decode(tokens), trained, atol=1e-5)


def test_channeltok_loss_adds_weighted_entropy_and_commitment_of_active_channels() -> None:
    model, pixels = ChannelTok(TINY), torch.rand(2, 3, 128, 128) * 2 - 1
    unit = torch.full((2, 32, 4, 4), 0.25)
    unit[:, 16:] = 0.5  # not active
    unit[:, 0] *= 2
    active = torch.arange(32).expand(2, 32) < 16
    outputs = (pixels + 0.25, unit, active)

    def loss(**weights: float) -> float:
        losses = TrainingLosses(recipe_without_data(**{"l1_weight": 1.0, **weights}))
        return model.loss(losses, pixels, outputs, 0).item()

    entropy = factorised_entropy(unit, active)
    assert loss() == pytest.approx(0.25, rel=1e-4)
    assert loss(l1_weight=0, commitment_weight=2) == pytest.approx(2 * 0.25**2 / 16)
    assert loss(l1_weight=0, entropy_weight=3) == pytest.approx(
        3 * (entropy.per_sample - entropy.batch).item()
    )


def test_draw_budgets_follows_algorithm_1() -> None:
    generator = torch.Generator().manual_seed(0)
    budgets = draw_budgets(20_000, 256, 0.5, generator)
    assert budgets.min() >= 1
    assert budgets.max() == 256
    assert abs((budgets == 256).float().mean() - 0.5) < 0.02
    dropped = budgets[budgets < 256].float()
    assert abs(dropped.mean() - 256 * (0.002 + 1) / 2) < 3  # uniform
    assert (draw_budgets(1000, 256, 1.0, generator) == 256).all()
    assert (draw_budgets(1000, 256, 0.0, generator) < 256).all()
    assert (draw_budgets(1000, 1, 0.0, generator) == 1).all()


def test_shuffle_shape_omits_new_fields_at_their_defaults() -> None:
    """Fingerprints hash the serialised shape: the shipped ones must not change."""
    written = ShuffleShape().model_dump(mode="json")
    assert {"full_size_channels", "budget_hint", "more_blocks"}.isdisjoint(written)


def test_channeltok_full_size_convolution_overlaps_patches() -> None:
    def reach(full_size_channels: int) -> int:
        """Number of feature columns that pixel 64 depends on."""
        torch.manual_seed(0)
        decoder = ChannelTok(
            TINY.model_copy(update={"full_size_channels": full_size_channels})
        ).decoder
        layers = list(decoder)[-2 if not full_size_channels else -3 :]
        features = torch.zeros(1, 32, 32, 32, requires_grad=True)
        out = features
        for layer in layers:
            out = layer(out)
        out[0, :, 64, 64].sum().backward()
        assert features.grad is not None
        return int((features.grad.abs().sum((0, 1, 2)) > 0).sum())

    # Pixel 64 is the first of its patch: it depends on 3 columns of features, or on 4 through a 3x3
    # convolution at full size.
    assert (reach(0), reach(8)) == (3, 4)


def test_channeltok_budget_hint_starts_at_zero_and_marks_present_channels() -> None:
    torch.manual_seed(0)
    plain = ChannelTok(TINY).eval()
    hinted = ChannelTok(TINY.model_copy(update={"budget_hint": True})).eval()
    hinted.load_state_dict(plain.state_dict() | {"decoder.hint": torch.zeros(32, 32)})
    tokens = torch.randint(2**16, (2, 8), dtype=torch.int32)
    with torch.inference_mode():
        assert torch.equal(plain.decode_prefix(tokens), hinted.decode_prefix(tokens))
        hinted.decoder.hint[8:] = 1.0  # type: ignore[union-attr, index]
        assert torch.equal(
            plain.decode_prefix(tokens), hinted.decode_prefix(tokens)
        )  # none of those is there
        hinted.decoder.hint[7] = 1.0  # type: ignore[union-attr, index]
        assert not torch.equal(plain.decode_prefix(tokens), hinted.decode_prefix(tokens))


NARROW = (
    NarrowDecoder(budget=4, widths=(32, 32, 32, 32)),
    NarrowDecoder(budget=8, widths=(32, 32, 32, 64)),
)


def test_channeltok_prefixes_take_the_smallest_decoder_that_holds_them() -> None:
    torch.manual_seed(0)
    whole = ChannelTok(TINY).eval()
    model = whole.with_narrow_decoders(NARROW).eval()
    assert (whole.narrow_budgets, model.narrow_budgets) == ((), (4, 8))
    assert model.decoders == (model.decoder, *model.narrow_decoders.values())
    tokens = torch.randint(2**16, (2, 32), dtype=torch.int32)
    absent = torch.full((2, 4), -1, dtype=torch.int32)
    with torch.inference_mode():
        for k, decoder in ((1, 1), (4, 1), (5, 2), (8, 2), (9, 0), (32, 0)):
            used: list[nn.Module] = []
            hooks = [
                layer.register_forward_hook(lambda layer, *_, used=used: used.append(layer))
                for layer in model.decoders
            ]
            image = model.decode_prefix(tokens[:, :k])
            assert used == [model.decoders[decoder]], k
            for hook in hooks:
                hook.remove()
            if decoder == 0:
                assert torch.equal(image, whole.decode_prefix(tokens[:, :k]))
        padded = torch.cat([tokens[:, :5], absent[:, :3]], dim=1)
        assert torch.equal(model.decode_prefix(padded), model.decode_prefix(tokens[:, :5]))


def test_narrow_decoder_of_the_same_widths_starts_as_the_whole_one_less_its_blocks() -> None:
    torch.manual_seed(0)
    whole = ChannelTok(TINY.model_copy(update={"budget_hint": True})).eval()
    for parameter in whole.decoder.parameters():  # blocks start as identities otherwise
        nn.init.normal_(parameter, std=0.1)
    narrow = NarrowDecoder(budget=8, widths=TINY.widths)
    all_blocks = whole.with_narrow_decoders((narrow,)).eval()
    fewer = narrow.model_copy(update={"blocks": (0, 1, 1, 0)})
    few_blocks = whole.with_narrow_decoders((fewer,)).eval()
    tokens = torch.randint(2**16, (2, 8), dtype=torch.int32)
    with torch.inference_mode():
        image = whole.decode_prefix(tokens)
        assert torch.allclose(all_blocks.decode_prefix(tokens), image, atol=1e-4)
        blocks = [layer for layer in whole.decoder.children() if isinstance(layer, Res)]
        for i in (0, 1, 3, 5, 6):  # of S/32, S/32, S/16, S/8 and S/4
            nn.init.zeros_(blocks[i].block[-1].weight)
            nn.init.zeros_(blocks[i].block[-1].bias)
        expected = whole.decode_prefix(tokens)
        assert torch.allclose(few_blocks.decode_prefix(tokens), expected, atol=1e-4)
    assert not torch.allclose(expected, image, atol=1e-2)


def test_channeltok_trains_its_narrow_decoders_alone() -> None:
    torch.manual_seed(0)
    model = ChannelTok(TINY).with_narrow_decoders(NARROW)
    pixels = torch.rand(3, 3, 128, 128) * 2 - 1
    outputs = model(pixels, torch.tensor([32, 16, 1]))
    with torch.inference_mode():
        tokens = model.encode(pixels)
        for image, ks in zip(outputs, [(4, 2, 1), (8, 6, 5)], strict=True):
            padded = torch.full((3, ks[0]), -1, dtype=torch.int32)
            for row, k in enumerate(ks):
                padded[row, :k] = tokens[row, :k]
            assert torch.allclose(model.decode_prefix(padded), image, atol=1e-5)
    model.loss(TrainingLosses(recipe_without_data()), pixels, outputs, 0).backward()
    trained = {
        name.split(".")[0] for name, weight in model.named_parameters() if weight.grad is not None
    }
    assert trained == {"narrow_decoders"}
    inner = {id(weight) for weight in model.inner_weights()}
    assert inner < {id(weight) for weight in model.narrow_decoders.parameters()}


@pytest.mark.parametrize("budgets", [(8, 4), (4, 4), (32,), (0,)], ids=str)
def test_narrow_decoders_have_ascending_budgets_below_the_channels(budgets: tuple[int]) -> None:
    narrow = [{"budget": budget, "widths": (32, 32, 32, 32)} for budget in budgets]
    with pytest.raises(ValueError, match="budget"):
        ShuffleShape.model_validate({"channels": 32, "narrow_decoders": narrow})


def test_paper_backbone_has_no_narrow_decoders() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="demo's kind"):
        ChannelTok(SIZES["tiny"]).with_narrow_decoders(NARROW)
