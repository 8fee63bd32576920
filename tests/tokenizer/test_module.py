"""TokenizerModule: equal to the graphs, with gradients to images and weights."""

import numpy as np
import pytest
import torch
from channeltok import FingerprintMismatch, InvalidInput, Tokenizer
from torch import nn

import imaging
from tests.support import shipped
from tests.support.photographs import crops
from tests.support.running import ROOT
from tokenizer import checkpoint, module
from tokenizer.models.registry import SIZES
from tokenizer.module import TokenizerModule

WEIGHTS = ROOT / "tokenizer/weights"


@pytest.fixture(scope="module")
def demo() -> TokenizerModule:
    return Tokenizer.from_pretrained("demo").as_module()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """float [4, 3, 128, 128] in [0, 1]."""
    pixels = np.stack([imaging.prepare(image, 128) for image in crops(4)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255


def test_module_has_the_outputs_of_the_graphs(demo: TokenizerModule, images: torch.Tensor) -> None:
    arrays = images.mul(255).round().byte().permute(0, 2, 3, 1)
    with Tokenizer.from_pretrained("demo") as graphs, torch.inference_mode():
        expected = np.stack([tokens.ids for tokens in graphs.encode(arrays)])
        ids = demo.encode(images)
        flipped = np.unpackbits((ids.numpy().astype(np.uint16) ^ expected).view(np.uint8)).sum()
        assert flipped <= 1
        for k in (1, 16, 256):
            decoded = demo.decode(torch.from_numpy(expected.astype(np.int64))[:, :k])
            graph = [image.as_tensor() for image in graphs.decode(expected, k)]
            difference = decoded.clamp(0, 1) - torch.stack(graph)
            assert difference.abs().max() <= 1.01 / 255  # the graph rounds


@pytest.mark.parametrize("k", [None, 16])
def test_module_reconstructs_what_its_tokens_decode_to(
    demo: TokenizerModule, images: torch.Tensor, k: int | None
) -> None:
    with torch.inference_mode():
        torch.testing.assert_close(
            demo(images, k), demo.decode(demo.encode(images)[:, :k]), atol=1e-3, rtol=0
        )


@pytest.mark.parametrize("size", ["demo", "cvq", "flextok"])
def test_module_of_each_family_passes_gradients(size: str) -> None:
    torch.manual_seed(0)
    whole = TokenizerModule(SIZES[size].build()).eval()
    for parameter in whole.parameters():  # layers that start at zero stop every gradient
        if parameter.requires_grad and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    side = whole.image_size
    images = torch.rand(2, 3, side, side, requires_grad=True)
    decoded = whole(images, 5)
    with torch.no_grad():
        by_tokens = whole.decode(whole.encode(images)[:, :5])
    torch.testing.assert_close(decoded.detach(), by_tokens, atol=1e-3, rtol=0)
    decoded.square().mean().backward()
    assert images.grad is not None
    assert (images.grad.flatten(1).abs().amax(1) > 0).all()
    trained = [*whole.model.encoder.parameters(), *whole.model.decoder.parameters()]
    assert sum(bool(p.grad is not None and p.grad.any()) for p in trained) > 0.8 * len(trained)


def test_module_gradient_leads_to_an_image_that_decodes_as_wanted(
    demo: TokenizerModule, images: torch.Tensor
) -> None:
    """Ten steps on the pixels, through the quantiser."""
    wanted = images[1:2]
    pixels = images[:1].clone().requires_grad_()
    losses = []
    for _ in range(10):
        loss = nn.functional.mse_loss(demo(pixels), wanted)
        (gradient,) = torch.autograd.grad(loss, pixels)
        with torch.no_grad():
            pixels -= 0.05 * gradient / gradient.abs().mean()
            pixels.clamp_(0, 1)
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_load_is_the_checkpoints_training() -> None:
    loaded = module.load(WEIGHTS / "demo.safetensors")
    assert not loaded.training
    assert loaded.fingerprint == checkpoint.fingerprint(loaded.model)
    assert (loaded.max_tokens, loaded.image_size) == (256, 128)


def test_as_module_refuses_other_weights() -> None:
    with Tokenizer.from_pretrained("demo") as tokenizer:
        with pytest.raises(FingerprintMismatch, match=f"this tokenizer of {shipped.DEMO}"):
            tokenizer.as_module(WEIGHTS / "cvq.safetensors")
        with pytest.raises(InvalidInput, match="is no checkpoint"):
            tokenizer.as_module(ROOT / "docs/images/cat.jpg")
        with pytest.raises(InvalidInput, match="does not exist: pass weights"):
            tokenizer.as_module("missing.safetensors")
    with (
        Tokenizer.from_pretrained(ROOT / "model_repository") as tokenizer,
        pytest.raises(InvalidInput, match="a checkpoint beside the graphs does not exist"),
    ):
        tokenizer.as_module()
