"""CVQ: the codebook's nearest entries, updates and restarts, and the tokenizer around it."""

import pytest
import torch

from tests.support.training import recipe_without_data
from tokenizer.models.channeltok import ShuffleShape
from tokenizer.models.cvq import Codebook, Cvq, CvqShape
from tokenizer.training.losses import TrainingLosses

SHAPE = CvqShape(backbone=ShuffleShape(channels=32, widths=(32, 32, 32, 32)), vocab_size=300)


@pytest.fixture
def model() -> Cvq:
    torch.manual_seed(0)
    return SHAPE.build()


def test_cvq_nearest_equals_brute_force() -> None:
    torch.manual_seed(0)
    codebook, maps = Codebook(300), torch.randn(500, 16)
    assert torch.equal(
        codebook.nearest(maps), torch.cdist(maps.double(), codebook.entries.double()).argmin(1)
    )
    assert torch.equal(codebook.nearest(codebook.entries), torch.arange(300))


def test_cvq_entries_converge_to_cluster_means_and_stay_alive() -> None:
    torch.manual_seed(0)
    centres = 10 * torch.randn(8, 16)
    codebook = Codebook(64)
    for _ in range(600):
        maps = centres[torch.randint(8, (64,))] + 0.1 * torch.randn(64, 16)
        codebook.update(maps, codebook.nearest(maps))
    assert len(codebook.nearest(centres).unique()) == 8
    assert (codebook.uses >= Codebook.RESTART_BELOW).all()
    assert torch.cdist(centres, codebook.entries).min(1).values.max() < 0.2


def test_cvq_encodes_and_decodes(model: Cvq) -> None:
    model.eval()
    with torch.inference_mode():
        tokens = model.encode(torch.rand(2, 3, 128, 128) * 2 - 1)
        assert (tokens.shape, tokens.dtype) == ((2, 32), torch.int32)
        assert 0 <= tokens.min() <= tokens.max() < 300
        absent = tokens.clone()
        absent[:, 5:] = -1
        assert torch.equal(model.decode(absent), model.decode_prefix(tokens[:, :5]))
        assert not torch.equal(
            model.decode(absent), model.decode(torch.where(absent < 0, 0, absent))
        )
        assert not model.codebook(torch.tensor([-1])).any()
    assert (model.vocab_size, model.bits_per_token) == (300, 9)


def test_cvq_training_and_serving_decode_alike(model: Cvq) -> None:
    model.eval()
    pixels = torch.rand(2, 3, 128, 128) * 2 - 1
    with torch.inference_mode():
        trained, _ = model(pixels, torch.tensor([5, 32]))
        tokens = model.encode(pixels)
        tokens[0, 5:] = -1
        assert torch.allclose(model.decode(tokens), trained, atol=1e-5)


def test_cvq_gradient_reaches_the_encoder_and_only_training_moves_the_codebook(model: Cvq) -> None:
    pixels = torch.rand(2, 3, 128, 128) * 2 - 1
    before = model.codebook.entries.clone()
    model.eval()(pixels, torch.tensor([5, 32]))
    assert torch.equal(model.codebook.entries, before)
    losses = TrainingLosses(recipe_without_data(commitment_weight=0.25))
    model.loss(losses, pixels, model.train()(pixels, torch.tensor([5, 32])), 0).backward()
    assert all(
        weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters()
    )
    assert not torch.equal(model.codebook.entries, before)


def test_cvq_usage_is_the_share_of_entries_in_use(model: Cvq) -> None:
    assert model.usage(torch.tensor([[0, 1, 2], [2, 1, 0]])) == pytest.approx(3 / 300)
    assert model.usage(torch.arange(300).reshape(10, 30)) == 1
